"""What a trial of the schedule iterative does: channels go bit by bit while the network trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from copycat.width_profile import WidthProfile
from pruning.cost import Budget, format_count
from pruning.errors import ConfigError, UnreachableBudgetError
from pruning.iterative import Pace
from pruning.rules import Rules
from pruning.unit_costs import fewest_units
from search.config.iterative_config import IterativeConfig
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.data import Data, steps_per_epoch
from search.tasks.task import Task, has_own
from search.training.iterative_trainer import IterativeTrainer
from search.training.trainer import EpochReport
from search.trials.candidates import TRAJECTORY, Candidate, candidate_rankings
from search.trials.job_context import JobContext
from search.trials.jobs import TrialJob
from search.trials.preflight import Preflight
from search.trials.products import Product
from search.trials.scoring_batches import ScoringBatches
from search.trials.search_space import Proposal
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.staged_training import StagedTraining
from search.trials.targets import Target, targets_of
from search.trials.trajectory import trajectory_rows


@dataclass(frozen=True)
class PruningSteps:
    """The pruning steps that the epochs of a search have room for.

    epochs: in which pruning has to be over.  per_epoch: minibatches of each.
    minibatches: between two steps.  units: that go in each, or None for as few as are enough.
    """

    epochs: int
    per_epoch: int
    minibatches: int
    units: int | None

    @classmethod
    def of(
        cls, settings: IterativeConfig, training: TrainingConfig, num_train: int
    ) -> PruningSteps:
        """Those of trials that train on so many samples."""
        return cls(
            settings.epochs or max(1, training.fine_tune_epochs // 2),
            steps_per_epoch(num_train, training.batch_size),
            settings.minibatches,
            settings.units,
        )

    @property
    def count(self) -> int:
        """How many there are."""
        return self.epochs * self.per_epoch // self.minibatches

    def units_each(self, removable: int, num_targets: int) -> int:
        """Units that go in each step: as set, or as few as surely take all that can go.

        removable: units that can go.  Every target but the last may end a step before its time.
        """
        return self.units or -(-removable // max(1, self.count - num_targets + 1))

    def shortfall(self, needed: int, at_once: int = 1) -> str:
        """Why so many units cannot go in these steps, in one line; empty if they can.

        at_once: units that always go together, of which the last may lead past `units`.
        """
        place = f"{self.epochs} epochs of {self.per_epoch} minibatches"
        if not self.count:
            return (
                f"iterative pruning removes channels every {self.minibatches} minibatches, but has "
                f"{place}: lower --iterative-minibatches, or raise --iterative-epochs"
            )
        if self.units is None:
            return ""
        most = (self.units + at_once - 1) * self.count
        if most >= needed:
            return ""
        return (
            f"at least {needed} channels have to go, but {self.units} of them every "
            f"{self.minibatches} minibatches in {place} are {most}: raise --iterative-units or "
            "--iterative-epochs, or lower --iterative-minibatches"
        )


def check_iterative(config: SearchConfig, preflight: Preflight, data: Data, task: Task) -> None:
    """Raise ConfigError for a search whose iterative trials could come to nothing.

    That is where a task has a training loop of its own, in which nobody could take channels, and
    where the pace is too slow for the budget of the search, or its first target.
    """
    if "iterative" not in config.schedules:
        return
    if has_own(task, "train"):
        raise ConfigError(
            f"the schedule iterative takes channels while a network trains, but "
            f"{type(task).__name__} trains in a loop of its own: leave iterative out, or call "
            "pruning.IterativePruner in that loop",
            field="schedule",
        )
    limits = preflight.limits
    if config.targets:
        first = Proposal(config.criteria[0], config.granularities[0], {}, None)
        limits = targets_of(first, config, preflight)[0].limits
    for settings in config.iterative_settings:
        steps = PruningSteps.of(settings, config.training, data.count("train"))
        whys = [
            too_slow(config.granularities, limits, config.rules_of(name), preflight, steps)
            for name in config.criteria
        ]
        if all(whys):
            raise ConfigError(
                f"iterative pruning cannot reach {limits}: {whys[0]}", field="iterative"
            )


def too_slow(
    granularities: Sequence[str],
    limits: Budget,
    rules: Rules,
    preflight: Preflight,
    steps: PruningSteps,
) -> str:
    """Why these steps can reach `limits` by none of these; empty where they may.

    Structures that go at once may spare channels, and in uniform scope all layers lose some in
    one step, so that nothing is said of those.
    """
    is_one_by_one = all(part == "filter" for part in granularities) and rules.scope == "global"
    if not is_one_by_one:
        return steps.shortfall(0)
    groups = rules.prunable(preflight.graph, preflight.groups)
    needed = fewest_units(preflight.graph, preflight.groups, limits, rules)
    return steps.shortfall(needed, max(map(rules.step, groups)))


def settings_of_trial(proposal: Proposal, config: SearchConfig) -> IterativeConfig:
    """How iterative pruning goes in a trial: as in all of the search, but for what it proposes."""
    return config.iterative.with_values(proposal.settings_of("iterative"))


class IterativeTraining:
    """The stage of a trial between sparse training and fine-tuning.

    sparse: what sparse training has left, and what the trial proposes.
    targets: of the trial, its own first.
    staged: stores after every epoch how to go on; its notes hold what was measured of sparse
        training ("details") and what has been reached.
    """

    def __init__(
        self,
        job: TrialJob,
        sparse: SparseNetwork,
        targets: Sequence[Target],
        context: JobContext,
        data: Data,
        *,
        staged: StagedTraining,
    ) -> None:
        self._job, self._targets = job, targets
        self._context, self._data, self._staged = context, data, staged
        config = context.config
        self._settings = settings_of_trial(job.proposal, config)
        self._steps = steps = PruningSteps.of(self._settings, config.training, data.count("train"))
        self._reached: dict[str, dict[str, Any]] = staged.notes.setdefault("reached", {})
        self._candidates: list[dict[str, Any]] = staged.notes.setdefault("candidates", [])
        seed = config.seed_of(job.number, job.repeat)
        batches = ScoringBatches(data, config, seed, context.torch_device)

        def pace(removable: int) -> Pace:
            return Pace(
                steps.units_each(removable, len(targets)),
                steps.minibatches,
                self._settings.surgery_every,
                self._settings.score_momentum,
                self._settings.flops_penalty,
                self._settings.reset_momentum,
            )

        limits = [target.limits for target in targets]
        self._pruner, self._decision = sparse.iterative_pruner(limits, pace, batches)
        self._trainer = IterativeTrainer(
            self._pruner,
            data,
            self._after_pruning,
            task=context.task,
            epochs=steps.epochs,
            config=config.training.for_iterative_pruning(
                steps.epochs, self._settings.learning_rate
            ),
            seed=config.fine_tuning_seed_of(job.number, job.repeat),
            device=context.torch_device,
        )

    def products(self) -> list[Product]:
        """The first network within each target, the trial's own first.

        Raises UnreachableBudgetError if none came within the trial's own; other targets that were
        not reached have no network.
        """
        self._after_pruning()  # gates may have done enough
        trainer = self._trainer
        self._staged.train(
            "iterative pruning", trainer, lambda: trainer.compute, after_epoch=self._after_epoch
        )
        own = self._targets[0]
        if own.suffix not in self._reached:
            raise self._too_far(own.limits)
        suffixes = [target.suffix for target in self._targets if target.suffix in self._reached]
        return [self._at_last(Product.from_state(self._reached[suffix])) for suffix in suffixes]

    def _too_far(self, limits: Budget) -> UnreachableBudgetError:
        """What is said where the epochs are over before pruning is."""
        cost, removed = self._pruner.cost, sum(p.removed for p in self._pruner.trajectory[-1:])
        counts = (f"{b.quantity} {format_count(cost.of(b.quantity))}" for b in limits.bounds)
        return UnreachableBudgetError(
            f"iterative pruning did not come to {limits} in {self._steps.epochs} epochs: "
            f"{removed} channels went, which left {', '.join(counts)}; raise --iterative-units or "
            "--iterative-epochs"
        )

    def _at_last(self, product: Product) -> Product:
        """The product; that of the last pruning step has learned until the end of its epoch."""
        if product.pruning.plan != self._pruner.plan:
            return product
        images, compute = self._spent
        weights = self._pruner.network.model.state_dict()
        return dataclasses.replace(product, weights=weights, images=images, compute=compute)

    def _after_pruning(self) -> None:
        """Measure the network where it is to be, and keep it where it is the first in a target."""
        pruner, every = self._pruner, self._settings.score_every
        new = [
            target
            for target in self._targets
            if target.suffix not in self._reached and target.limits.allows(pruner.cost)
        ]
        step, rungs = len(pruner.trajectory), self._rungs_met()
        if new or rungs or (every and step and step % every == 0):
            model = pruner.smaller()
            score = self._context.score(model, "validation", self._data)
            pruner.record_score(score)
            for target in new:
                self._reached[target.suffix] = self._product(target, model, score).to_state()
            if rungs:
                self._candidates.append(self._candidate(min(rungs), score).to_mapping())

    def _rungs_met(self) -> list[float]:
        """Rungs of the ladder that the network is within, and that no candidate was before."""
        if self._job.repeat or not candidate_rankings(self._context.config):
            return []
        least = min((found["rung"] for found in self._candidates), default=math.inf)
        limits = self._context.preflight.limits
        pending = (rung for rung in self._context.config.ladder if rung < least)
        return [rung for rung in pending if limits.scaled(rung).allows(self._pruner.cost)]

    def _candidate(self, rung: float, score: float) -> Candidate:
        cost = self._pruner.cost
        profile = WidthProfile(self._pruner.plan.widths, self._decision.removed)
        return Candidate(rung, TRAJECTORY, profile, cost.flops, cost.params, score)

    def _product(self, target: Target, model: nn.Module, score: float) -> Product:
        pruner, decision = self._pruner, self._decision
        profile = WidthProfile(pruner.plan.widths, decision.removed)
        images, compute = self._spent
        return Product(
            self._job.product_key(target.suffix),
            Pruning(decision, pruner.plan, profile, pruner.scores),
            {**self._staged.notes["details"], "score_after_pruning": score},
            model.state_dict(),
            images=images,
            compute=compute,
            epochs=self._trainer.epoch if pruner.trajectory else 0,
            trajectory=trajectory_rows(pruner.trajectory, decision.removed),
        )

    @property
    def _spent(self) -> tuple[int, float]:
        """Images and compute so far, those of sparse training included."""
        before: int = self._staged.notes["images_of_training"]
        compute = before * self._context.preflight.base.flops + self._trainer.compute
        return before + self._trainer.images, float(compute)

    def _after_epoch(self, report: EpochReport) -> None:
        """The score of an epoch is that of its last point, unless that was measured before."""
        trajectory = self._pruner.trajectory
        if trajectory and trajectory[-1].score is None:
            self._pruner.record_score(report.validation_score)
