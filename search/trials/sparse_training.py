"""What a proposal makes of a network: gates and a penalty to train with, then what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from copycat.width_profile import WidthProfile
from pruning.cost import Budget
from pruning.criteria import Batches, BatchLoss, Criterion, Loss
from pruning.errors import UnreachableBudgetError
from pruning.graph.channel_graph import ChannelGraph
from pruning.iterative import IterativePruner, Pace, Removable
from pruning.networks.copies import moved
from pruning.regularizers.penalties import l1
from pruning.rules import Rules
from pruning.scaling_factors.gating import Granularity
from pruning.scaling_factors.scaling_factors import Decision, ScalingFactors
from pruning.selection import KeepPlan, least_widths, select, unreachable
from pruning.sigmoid_batchnorm import SigmoidBatchNorm
from pruning.structure_removal.structures import Structure
from pruning.surgery import remove_channels
from search.config.methods import gated_parts, method
from search.config.search_config import SearchConfig
from search.training.memory_format import laid_out
from search.trials.preflight import Preflight, judged_groups
from search.trials.search_space import Proposal

RECEDED = 0.1
"""A channel with σ(γ) below this counts as receded in the reported sparsity."""

GATE_THRESHOLD = 0.5
"""Where channels can meet the target, no structure goes whose gate is above this."""


@dataclass(frozen=True)
class Pruning:
    """What is removed from a network, and why; `to_mapping` gives it in JSON's terms.

    decision: by gates.  plan: channels that stay of what the decision leaves.
    profile: the shape that is left.  scores: shape (width,) per judged group; empty where gates
    alone decided.
    """

    decision: Decision
    plan: KeepPlan
    profile: WidthProfile
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; without the scores."""
        return {
            "removed": [[part.kind, part.name] for part in self.decision.removed],
            "open": {name: list(kept) for name, kept in self.decision.keep.keep.items()},
            "keep": {name: list(kept) for name, kept in self.plan.keep.items()},
            "widths": dict(self.profile.widths),
        }

    @classmethod
    def from_mapping(
        cls, content: Mapping[str, Any], scores: Mapping[str, Tensor] | None = None
    ) -> Pruning:
        """The inverse of `to_mapping`."""
        removed = tuple(Structure(kind, name) for kind, name in content["removed"])
        opened, keep = (
            KeepPlan({name: tuple(kept) for name, kept in content[part].items()})
            for part in ("open", "keep")
        )
        profile = WidthProfile(content["widths"], removed)
        return cls(Decision(removed, opened), keep, profile, scores or {})


@dataclass(frozen=True)
class _Judged:
    """A network whose channels a criterion judges: what `decision` has left of another.

    groups: those that may be pruned.
    """

    model: nn.Module
    decision: Decision
    graph: ChannelGraph
    groups: tuple[str, ...]


class SparseNetwork:
    """A network under a proposal: what is trained, its penalty, and its pruned form.

    base: with first weights; it may be used up.
    loss: by which criteria judge; their own by default.
    is_trained: whether those are trained ones, whose scales σBN then starts from.
    memory_format: of the weights of convolutions, in every network that is made of this one, too.
    model: what is to be trained in its place, on `device`.
    """

    def __init__(
        self,
        base: nn.Module,
        proposal: Proposal,
        config: SearchConfig,
        preflight: Preflight,
        *,
        seed: int,
        device: torch.device,
        loss: Loss | BatchLoss | None = None,
        is_trained: bool = False,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        self._proposal, self._config, self._preflight = proposal, config, preflight
        self._loss = loss
        self._method = method(proposal.criterion)
        self._example_input = moved(preflight.example_input, device)
        trained_on = preflight.example_input if is_trained else None
        prepared = self._method.prepared(base, seed, trained_on)
        self.model = laid_out(prepared.to(device), memory_format)
        gated = self._gated_granularities
        if gated:
            self.model = ScalingFactors(
                self.model,
                self._example_input,
                gated,
                residual=config.prune_residual,
                **asdict(preflight.graph.offered),
                restrictions=config.restrictions,
                pruned_layers=preflight.graph.pruned_layers,
                seed=seed,
                gating=config.gates.as_gating,
            )
        make = self._method.regularizer if config.training.epochs else None
        graph = preflight.graph if preflight.groups else None
        self._regularizer = make(proposal.settings_of_criterion, graph) if make else None
        self._base = preflight.base_network(config.restrictions)
        self._penalised: nn.Module | None = None
        self._penalty: Callable[[], Tensor]

    @property
    def judges_channels(self) -> bool:
        """Whether channels go by a criterion's scores, and not by gates of their own."""
        return "filter" in self._proposal.granularities and self._method.criterion is not None

    @property
    def sparsity(self) -> float | None:
        """Share of σBN channels that have receded; None without σBN."""
        scales = [m.importance for m in self.model.modules() if isinstance(m, SigmoidBatchNorm)]
        if not scales:
            return None
        return float((torch.cat(scales).detach() < RECEDED).float().mean())

    def penalty(self, model: nn.Module) -> Tensor:
        """What is added to the loss of `model`, a scalar."""
        total = next(model.parameters()).new_zeros(())
        if self._regularizer is not None:
            network = model.network if isinstance(model, ScalingFactors) else model
            if network is not self._penalised:
                self._penalised, self._penalty = network, self._regularizer.on(network)
            total = total + self._penalty()
        if isinstance(model, ScalingFactors):
            strengths = {name: self._gate_strength(name) for name in self._gated_granularities}
            form = _summed if self._config.gates.gate_penalty == "each" else l1
            total = total + model.penalty(strengths, form)
        return total

    def after_step(self, model: nn.Module) -> None:
        """What the method asks for after each update of the weights."""
        if self._method.after_step is not None:
            self._method.after_step(model)
        if isinstance(model, ScalingFactors):
            model.clip()

    def pruning(
        self,
        batches: Batches,
        limits: Budget,
        *,
        rules: Rules | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> Pruning:
        """What the gates and the method find least important; the network is left as it is.

        batches: minibatches that criteria may look at.
        limits: what the result costs at most. Raises UnreachableBudgetError if it cannot.
        rules: by which channels go; by default those of the proposal.
        scores: of the same network by the same method, which are then not worked out again.
        """
        if isinstance(self.model, ScalingFactors) and not self.judges_channels:
            decision = self._decided(self.model, limits)
            return Pruning(decision, KeepPlan({}), self._profile_of(self.model, decision))
        subject = self._of_criterion(limits)
        if scores is None or subject.decision.removed:
            scores = self._scores(subject, batches)
        plan = select(scores, subject.graph, limits, **asdict(rules or self._rules))
        profile = WidthProfile(plan.widths, subject.decision.removed)
        return Pruning(subject.decision, plan, profile, scores)

    def pruned_further(
        self, model: nn.Module, before: Pruning, limits: Budget, batches: Batches
    ) -> tuple[Pruning, nn.Module]:
        """What the method finds least important in what `before` has left and has learned since.

        model: that smaller network, which is left as it is; the result is what is left of it.
        Channels of the new pruning are those of the first network; their scores are the newest.
        Raises UnreachableBudgetError if the limits cannot be met.
        """
        first = self._graph_without(before.decision)
        graph = first.narrowed(before.plan.units_kept(first))
        judged = self._judge.score(model, graph, batches)
        new = {name: judged[name] for name in before.scores}
        plan = select(new, graph, limits, **asdict(self._rules))
        scores = {name: values.clone() for name, values in before.scores.items()}
        for name, values in new.items():
            scores[name][list(before.plan.keep[name])] = values.to(scores[name])
        whole = plan.among(before.plan)
        profile = WidthProfile(whole.widths, before.decision.removed)
        return Pruning(before.decision, whole, profile, scores), remove_channels(model, graph, plan)

    def iterative_pruner(
        self, limits: Sequence[Budget], pace_for: Callable[[int], Pace], batches: Batches
    ) -> tuple[IterativePruner, Decision]:
        """What takes the channels of the network that the criterion judges, and what goes at once.

        limits: what to prune to, the most important first. Those below what can be reached are
            left out, UnreachableBudgetError of the first. Only so many structures with closed gates
            go as each of them needs.
        pace_for: the pace for so many units as can go.
        batches: minibatches that criteria may look at, which can be gone through again and again.
        """
        rules, restrictions = self._rules, self._config.restrictions
        subject = min(map(self._of_criterion, limits), key=lambda s: len(s.decision.removed))
        graph, groups = subject.graph, subject.groups
        if not groups:
            raise UnreachableBudgetError("gates have left no channels to take step by step")
        least = least_widths(graph, groups, min_channels=rules.min_channels, divisor=rules.divisor)
        floor = graph.cost(least)
        if not limits[0].allows(floor):
            raise unreachable(limits[0], floor)
        removable = sum(
            graph.group(name).num_units - width // graph.group(name).unit
            for name, width in least.items()
        )
        pruner = IterativePruner(
            subject.model,
            self._example_input,
            self._judge,
            [each for each in limits if each.allows(floor)],
            pace_for(removable),
            removable=Removable(groups, rules, restrictions, **asdict(graph.offered)),
            batches=batches,
        )
        return pruner, subject.decision

    def importances(self, batches: Batches) -> dict[str, Tensor]:
        """What the method finds of every channel that it judges, by group, shape (width,) each.

        batches: as in `pruning`. The network must be one without gates.
        """
        assert not isinstance(self.model, ScalingFactors), self._proposal
        return self._scores(self._of_criterion(self._preflight.limits), batches)

    def settled(self, pruning: Pruning) -> ScalingFactors:
        """A gated network with its gates at 0 or 1, see ScalingFactors.settled."""
        assert isinstance(self.model, ScalingFactors), self._method
        return self.model.settled(pruning.decision)

    def without(self, pruning: Pruning, settled: ScalingFactors | None = None) -> nn.Module:
        """A smaller network with the present weights, or those of `settled`; neither is changed."""
        model = self.model if settled is None else settled
        if isinstance(model, ScalingFactors):
            model = model.plain(pruning.decision)
            if not pruning.plan.keep:
                return model
        return remove_channels(model, self._graph_without(pruning.decision), pruning.plan)

    def _decided(self, model: ScalingFactors, limits: Budget) -> Decision:
        """What goes by the gates: below thresholds that were given, or as much as limits need.

        By thresholds the target does not count, but the budget of the search holds where gates
        decide alone: UnreachableBudgetError for more.
        """
        least, thresholds = self._config.min_channels, self._config.gates.thresholds
        if not thresholds:
            if self.judges_channels:
                return _no_more_than_needed(model, limits)
            return model.decide_to(limits, min_channels=least)
        gated = {part: thresholds[part] for part in self._gated_granularities}
        decision = model.decide(gated, min_channels=least)
        if not self.judges_channels:
            cost = model.cost(decision)
            if not self._preflight.limits.allows(cost):
                raise unreachable(self._preflight.limits, cost)
        return decision

    def _of_criterion(self, limits: Budget) -> _Judged:
        """What the criterion judges: what gates leave of the network, but not of its channels."""
        graph, groups = self._preflight.graph, self._preflight.groups
        if not isinstance(self.model, ScalingFactors):
            return _Judged(self.model, Decision((), KeepPlan({})), graph, groups)
        decision = self._decided(self.model, limits)
        model = self.model.plain(decision)
        if decision.removed:
            graph = self._graph_without(decision)
            groups = judged_groups(self._config, model, graph, [self._method.name])
        return _Judged(model, decision, graph, groups)

    def _scores(self, subject: _Judged, batches: Batches) -> dict[str, Tensor]:
        """Of the groups that may be pruned; gates may have left none."""
        if not subject.groups:
            return {}
        scores = self._judge.score(subject.model, subject.graph, batches)
        return {name: scores[name] for name in subject.groups}

    @property
    def _rules(self) -> Rules:
        """What may go of the channels, in what order: those of the search, as the trial has it."""
        return replace(
            self._config.rules_of(self._method.name), cost_exponent=self._proposal.cost_exponent
        )

    @property
    def _judge(self) -> Criterion:
        """The criterion with the loss that it judges by."""
        make = self._method.criterion
        assert make is not None, self._method
        criterion = make(self._proposal.settings_of_criterion)
        return criterion if self._loss is None else criterion.by_loss(self._loss)

    def _profile_of(self, model: ScalingFactors, decision: Decision) -> WidthProfile:
        """The widths that gates have left, under the names of the network without structures."""
        graph, widths = self._graph_without(decision), model.widths(decision)
        groups = judged_groups(self._config, model.plain(decision), graph, [self._method.name])
        return WidthProfile({name: widths[name] for name in groups}, decision.removed)

    def _graph_without(self, decision: Decision) -> ChannelGraph:
        """The graph of the network without the structures that go, with all of its channels."""
        return self._base.graph_of(WidthProfile({}, decision.removed))

    @property
    def _gated_granularities(self) -> tuple[Granularity, ...]:
        """What has learnable gates; channels only where no criterion judges them."""
        return gated_parts(self._proposal.criterion, self._proposal.granularity)

    def _gate_strength(self, granularity: Granularity) -> float:
        owner = self._method.name if granularity == "filter" else granularity
        return self._proposal.settings_of(owner)["strength"]


def _no_more_than_needed(model: ScalingFactors, limits: Budget) -> Decision:
    """Structures with closed gates, the lowest first, until `limits` are met by them alone."""
    closed = model.decide(GATE_THRESHOLD)
    try:
        needed = model.decide_to(limits)
    except UnreachableBudgetError:
        return closed
    return min(closed, needed, key=lambda decision: len(decision.removed))


def _summed(gates: Tensor) -> Tensor:
    """L1, its strength that of each gate, however many there are."""
    return len(gates) * l1(gates)
