"""What a search tunes: the method and its own settings, the FLOPs to prune to, the schedule."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
)

from pruning.scaling_factors.gating import Granularity
from search.config.methods import GATE_STRENGTHS, Range, method, parts_of

_TARGET, _CRITERION, _GRANULARITY = "target_flops", "criterion", "granularity"
_SCHEDULE = "schedule"


@dataclass(frozen=True)
class Proposal:
    """One point of the space.

    criterion: name of the method.  granularity: what is pruned, such as filter+branch.
    settings: of the method and of the gates, under names such as rni.strength (λ_S of RNI),
        rni.shift (its b) or branch.strength.
    target_flops: what to prune to (fvcore); None where the search has targets of its own.
    schedule: one-shot, all at once after sparse training, or iterative, step by step.
    """

    criterion: str
    granularity: str
    settings: Mapping[str, float]
    target_flops: int | None
    schedule: str = "one-shot"

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """What is pruned, part by part."""
        return parts_of(self.granularity)

    @property
    def settings_of_criterion(self) -> dict[str, float]:
        """What the method's own functions take."""
        return self.settings_of(self.criterion)

    def settings_of(self, owner: str) -> dict[str, float]:
        """The settings of a method or granularity, under their own names."""
        prefix = f"{owner}."
        return {
            name.removeprefix(prefix): value
            for name, value in self.settings.items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True)
class SearchSpace:
    """The methods to choose from with the settings of each, and the range of the target.

    total_push: Σ over the steps of sparse training of learning rate / (1 − momentum), of σBN
        scales and gates: the push at a strength of 1; 0 without sparse training, where settings
        of methods, all of them of penalties, have no effect and are no dimensions.
    criteria, granularities, schedules: at least one of each; a dimension only where there are
        several.
    target_flops: least and most, drawn log-uniformly; None where the search has targets of its
        own, and this is no dimension.
    gate_form: of learnable gates, on which the range of their strength depends.
    """

    total_push: float
    target_flops: tuple[float, float] | None
    criteria: tuple[str, ...] = ("rni",)
    granularities: tuple[str, ...] = ("filter",)
    schedules: tuple[str, ...] = ("one-shot",)
    gate_form: str = "sigmoid"

    @property
    def is_conditional(self) -> bool:
        """Whether some settings only exist for some choices."""
        return max(map(len, (self.criteria, self.granularities, self.schedules))) > 1

    def openings(self, targets: Sequence[float]) -> list[dict[str, Any]]:
        """Parts of the first points: each target, and each choice, at least once."""
        choices: dict[str, Sequence[Any]] = {
            name: values
            for name, values in (
                (_CRITERION, self.criteria),
                (_GRANULARITY, self.granularities),
                (_SCHEDULE, self.schedules),
            )
            if values[1:]
        }
        if self.target_flops is not None:
            choices[_TARGET] = targets
        count = max(map(len, choices.values()), default=0)
        return [
            {name: values[number % len(values)] for name, values in choices.items() if values}
            for number in range(count)
        ]

    def propose(self, trial: optuna.trial.BaseTrial) -> Proposal:
        """Let Optuna choose a point, one dimension after the other."""

        def choose(name: str, distribution: BaseDistribution) -> CategoricalChoiceType:
            if isinstance(distribution, CategoricalDistribution):
                return trial.suggest_categorical(name, distribution.choices)
            assert isinstance(distribution, FloatDistribution)
            return trial.suggest_float(
                name, distribution.low, distribution.high, log=distribution.log
            )

        return self._point(choose)

    def mildest(self, criterion: str, granularity: str, schedule: str = "one-shot") -> Proposal:
        """The point with these choices whose other dimensions are all least."""

        def choose(_: str, distribution: BaseDistribution) -> CategoricalChoiceType:
            assert isinstance(distribution, FloatDistribution)
            return distribution.low

        only = dataclasses.replace(
            self, criteria=(criterion,), granularities=(granularity,), schedules=(schedule,)
        )
        return only._point(choose)

    def proposal(self, params: Mapping[str, Any]) -> Proposal | None:
        """The point that Optuna's parameters describe, or None if some are missing."""
        try:
            return self._point(lambda name, _: params[name])
        except KeyError:
            return None

    def _point(self, choose: Callable[[str, BaseDistribution], Any]) -> Proposal:
        target = None
        if self.target_flops is not None:
            low, high = self.target_flops
            target = int(choose(_TARGET, FloatDistribution(low, max(low, high), log=True)))
        criterion = self._choice(_CRITERION, self.criteria, choose)
        granularity = self._choice(_GRANULARITY, self.granularities, choose)
        schedule = self._choice(_SCHEDULE, self.schedules, choose)
        settings = {
            name: float(choose(name, distribution))
            for name, distribution in self._settings(criterion, granularity)
        }
        return Proposal(criterion, granularity, settings, target, schedule)

    @staticmethod
    def _choice(
        name: str, choices: tuple[str, ...], choose: Callable[[str, BaseDistribution], Any]
    ) -> str:
        return str(choose(name, CategoricalDistribution(choices))) if choices[1:] else choices[0]

    def _settings(
        self, criterion: str, granularity: str
    ) -> Iterator[tuple[str, FloatDistribution]]:
        if not self.total_push:
            return
        chosen, of_gates = method(criterion), GATE_STRENGTHS[self.gate_form]
        for name, values in chosen.settings.items():
            learned = of_gates if chosen.criterion is None else values
            yield f"{criterion}.{name}", self._distribution(learned)
        for part in parts_of(granularity):
            if part != "filter":
                yield f"{part}.strength", self._distribution(of_gates)

    def _distribution(self, values: Range) -> FloatDistribution:
        unit = self.total_push if values.is_push else 1.0
        return FloatDistribution(values.low / unit, values.high / unit, log=values.is_log)


def sampler(
    name: str, seed: int, num_trials: int, *, is_conditional: bool = False
) -> optuna.samplers.BaseSampler:
    """Who proposes trials; a quarter of them is random where others are learned from.

    name: tpe (multivariate TPE that expects several trials at once), nsga2 or random.
    is_conditional: for TPE, settings are modelled together with those that always go with them.
    """
    first = max(4, num_trials // 4)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=first, seed=seed)
    assert name == "tpe", name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True,
            group=is_conditional,
            constant_liar=True,
            n_startup_trials=first,
            seed=seed,
        )
