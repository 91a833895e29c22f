"""The stage of a trial that judges, by a short training each, what else its training has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from pruning.criteria import Batches
from pruning.errors import UnreachableBudgetError
from search.config.methods import ranks_channels
from search.data.data import Data
from search.trials.candidates import Candidate, candidate_rankings
from search.trials.job_context import JobContext
from search.trials.search_space import Proposal
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.staged_training import StagedTraining


class ShapeJudging:
    """Prunes the trained network to each rung of the ladder by each ranking, and judges that.

    Nothing of it is kept but the shape and its score. `staged` knows what is done, in its notes
    "shapes", that are still to be judged, and "candidates", that have been.
    prepare: estimates the statistics of a pruned network anew.  train: trains one of so many FLOPs
    briefly.
    """

    def __init__(
        self,
        sparse: SparseNetwork,
        context: JobContext,
        data: Data,
        staged: StagedTraining,
        *,
        prepare: Callable[[nn.Module], None],
        train: Callable[[nn.Module, int], object],
    ) -> None:
        self._sparse, self._context, self._data, self._staged = sparse, context, data, staged
        self._prepare, self._train = prepare, train

    def run(self, proposal: Proposal, batches: Batches, scores: Mapping[str, Tensor]) -> None:
        """Judge all that is left.

        batches: minibatches that criteria may look at.  scores: what the trial's method found of
        the channels of its network; empty where gates alone decide.
        """
        notes = self._staged.notes
        if "shapes" not in notes:  # kept, because a GPU might not decide it again the same
            notes["shapes"] = list(self._shapes(proposal, batches, scores))
            notes["candidates"] = []
        while notes["shapes"]:
            rung, ranking, content = notes["shapes"][0]
            judged = self._judged(rung, ranking, Pruning.from_mapping(content)).to_mapping()
            notes["candidates"].append(judged)
            notes["shapes"] = notes["shapes"][1:]
            self._staged.advance({"images": self._staged.images})

    def _shapes(
        self, proposal: Proposal, batches: Batches, scores: Mapping[str, Tensor]
    ) -> Iterator[list[Any]]:
        """Rung, ranking and what is pruned, each shape once, the largest rung first."""
        config, preflight = self._context.config, self._context.preflight
        rankings = candidate_rankings(config)
        if not ranks_channels(proposal.criterion, proposal.granularity):
            rankings = dict(list(rankings.items())[:1])  # gates alone decide
        seen = set()
        for rung in sorted(config.ladder, reverse=True):
            for ranking, rules in rankings.items():
                limits = preflight.limits.scaled(rung)
                try:
                    pruning = self._sparse.pruning(batches, limits, rules=rules, scores=scores)
                except UnreachableBudgetError:
                    continue
                if pruning.profile.digest not in seen:
                    seen.add(pruning.profile.digest)
                    yield [rung, ranking, pruning.to_mapping()]

    def _judged(self, rung: float, ranking: str, pruning: Pruning) -> Candidate:
        model, profile = self._sparse.without(pruning), pruning.profile
        cost = self._context.preflight.graph_of(profile).cost(profile.widths)
        self._prepare(model)
        self._train(model, cost.flops)
        score = self._context.score(model, "validation", self._data)
        return Candidate(rung, ranking, profile, cost.flops, cost.params, score)
