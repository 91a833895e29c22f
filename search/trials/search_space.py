"""What a search tunes: the method and its own settings, the FLOPs to prune to, the schedule."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
)

from pruning.scaling_factors.gating import Granularity
from search.config.fixed_settings import owned_by, settings_of
from search.config.iterative_config import ITERATIVE_SETTINGS
from search.config.methods import Range, parts_of, ranks_channels, setting_ranges

_TARGET, _CRITERION, _GRANULARITY = "target_flops", "criterion", "granularity"
_SCHEDULE, _EXPONENT = "schedule", "cost_exponent"
T = TypeVar("T", str, float)
_USUAL = ("filter", "one-shot")


@dataclass(frozen=True)
class Proposal:
    """One point of the space.

    criterion: name of the method.  granularity: what is pruned, such as filter+branch.
    settings: of the method and of the gates, under names such as rni.strength (λ_S of RNI),
        rni.shift (its b) or branch.strength, and of iterative pruning what is not the same for all
        trials, such as iterative.units.
    target_flops: what to prune to (fvcore); None where the search has targets of its own.
    schedule: one-shot, all at once after sparse training, or iterative, step by step.
    cost_exponent: power of what channels cost by which their scores are divided, see
        `pruning.select`; 0 where no scores rank channels.
    """

    criterion: str
    granularity: str
    settings: Mapping[str, float]
    target_flops: int | None
    schedule: str = "one-shot"
    cost_exponent: float = 0.0

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """What is pruned, part by part."""
        return parts_of(self.granularity)

    @property
    def words(self) -> str:
        """What is tried, for people: the method, its settings in three digits, what is special."""
        settings = (
            f"{name.removeprefix(f'{self.criterion}.')} {value:.3g}"
            for name, value in self.settings.items()
        )
        special = [text for text in (self.granularity, self.schedule) if text not in _USUAL]
        if self.cost_exponent:
            special.append(f"score / cost^{self.cost_exponent:g}")
        return ", ".join([self.criterion, *special, *settings])

    @property
    def settings_of_criterion(self) -> dict[str, float]:
        """What the method's own functions take."""
        return self.settings_of(self.criterion)

    def settings_of(self, owner: str) -> dict[str, float]:
        """The settings of a method, a granularity or iterative pruning, under their own names."""
        return owned_by(owner, self.settings)


@dataclass(frozen=True)
class SearchSpace:
    """The methods to choose from with the settings of each, and the range of the target.

    total_push: Σ over the steps of sparse training of learning rate / (1 − momentum), of σBN
        scales and gates: the push at a strength of 1; 0 without sparse training, where settings
        of methods, all of them of penalties, have no effect and are no dimensions.
    criteria, granularities, schedules, cost_exponents: at least one of each; a dimension only
        where there are several, and the last where scores rank channels.
    target_flops: least and most, drawn log-uniformly; None where the search has targets of its
        own, and this is no dimension.
    fixed: values of settings and of target_flops that take the place of their ranges; a dimension
        only where there are several.
    gate_form: of learnable gates, on which the range of their strength depends.
    """

    total_push: float
    target_flops: tuple[float, float] | None
    criteria: tuple[str, ...] = ("rni",)
    granularities: tuple[str, ...] = ("filter",)
    schedules: tuple[str, ...] = ("one-shot",)
    cost_exponents: tuple[float, ...] = (0.0,)
    fixed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    gate_form: str = "sigmoid"

    @property
    def is_conditional(self) -> bool:
        """Whether some settings only exist for some choices."""
        return max(map(len, (self.criteria, self.granularities, self.schedules))) > 1

    def openings(self, targets: Sequence[float]) -> list[dict[str, Any]]:
        """Parts of the first points: each target, and each choice, at least once.

        targets: to begin with where target FLOPs are searched.
        """
        choices: dict[str, Sequence[Any]] = {**self._choices()}
        if self.target_flops is not None and _TARGET not in self.fixed:
            choices[_TARGET] = targets
        count = max(map(len, choices.values()), default=0)
        return [
            {name: values[number % len(values)] for name, values in choices.items() if values}
            for number in range(count)
        ]

    def grid(self, target: float) -> list[dict[str, Any]]:
        """Parts of points: every combination of choices and fixed values once, in their order.

        target: the FLOPs of all of them where those are searched.
        """
        several = self._choices() | {n: values for n, values in self.fixed.items() if values[1:]}
        is_target_free = self.target_flops is not None and _TARGET not in self.fixed
        point = {_TARGET: target} if is_target_free else {}
        points: dict[tuple[Any, ...], dict[str, Any]] = {}
        for combination in itertools.product(*several.values()):
            chosen = dict(zip(several, combination, strict=True))
            own = {name: value for name, value in chosen.items() if self._has(name, chosen)}
            points.setdefault(tuple(own.items()), point | own)
        return [point for point in points.values() if point]

    def _choices(self) -> dict[str, tuple[Any, ...]]:
        """What there are several of to choose from, beside numbers."""
        every = {
            _CRITERION: self.criteria,
            _GRANULARITY: self.granularities,
            _SCHEDULE: self.schedules,
            _EXPONENT: self.cost_exponents,
        }
        return {name: values for name, values in every.items() if values[1:]}

    def _has(self, name: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a point with these choices has a dimension of this name."""
        criterion = chosen.get(_CRITERION, self.criteria[0])
        granularity = chosen.get(_GRANULARITY, self.granularities[0])
        if name == _EXPONENT:
            return ranks_channels(criterion, granularity)
        if name not in self.fixed or name == _TARGET:
            return True
        schedule = chosen.get(_SCHEDULE, self.schedules[0])
        return name in settings_of(criterion, granularity, schedule)

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
        """The point with these choices whose other dimensions are all least, or the first value."""

        def choose(_: str, distribution: BaseDistribution) -> CategoricalChoiceType:
            if isinstance(distribution, CategoricalDistribution):
                return distribution.choices[0]
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
            drawn = FloatDistribution(low, max(low, high), log=True)
            target = int(self._value(_TARGET, drawn, choose))
        criterion = self._choice(_CRITERION, self.criteria, choose)
        granularity = self._choice(_GRANULARITY, self.granularities, choose)
        schedule = self._choice(_SCHEDULE, self.schedules, choose)
        settings = {
            name: self._value(name, distribution, choose)
            for name, distribution in self._settings(criterion, granularity)
        }
        if schedule == "iterative":
            given = [name for name in ITERATIVE_SETTINGS if name in self.fixed]
            settings |= {name: self._fixed_value(name, choose) for name in given}
        exponent = 0.0
        if ranks_channels(criterion, granularity):
            exponent = self._choice(_EXPONENT, self.cost_exponents, choose)
        return Proposal(criterion, granularity, settings, target, schedule, exponent)

    def _value(
        self, name: str, drawn: FloatDistribution, choose: Callable[[str, BaseDistribution], Any]
    ) -> float:
        return self._fixed_value(name, choose) if name in self.fixed else float(choose(name, drawn))

    def _fixed_value(self, name: str, choose: Callable[[str, BaseDistribution], Any]) -> float:
        values = self.fixed[name]
        return (
            values[0] if len(values) == 1 else float(choose(name, CategoricalDistribution(values)))
        )

    @staticmethod
    def _choice(
        name: str, choices: tuple[T, ...], choose: Callable[[str, BaseDistribution], Any]
    ) -> T:
        if not choices[1:]:
            return choices[0]
        return type(choices[0])(choose(name, CategoricalDistribution(choices)))

    def _settings(
        self, criterion: str, granularity: str
    ) -> Iterator[tuple[str, FloatDistribution]]:
        if not self.total_push:
            return
        for name, values in setting_ranges(criterion, granularity, self.gate_form).items():
            yield name, self._distribution(values)

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
