"""What `--set` fixes: dimensions of the search space at one value each, or a grid of several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pruning.cost import Bound, Budget
from pruning.errors import BudgetError, ConfigError
from search.config.iterative_config import ITERATIVE_SETTINGS
from search.config.methods import METHODS, setting_ranges
from search.config.settings import like

T = TypeVar("T")

Choice = tuple[str, str, str]
"""A method, a granularity and a schedule."""

TARGET = "target_flops"
"""The dimension that is no setting of a method."""


def settings_of(criterion: str, granularity: str, schedule: str) -> Collection[str]:
    """What there is to be fixed, beside target FLOPs, for a method with these."""
    of_schedule = ITERATIVE_SETTINGS if schedule == "iterative" else ()
    return (*setting_ranges(criterion, granularity), *of_schedule)


def owned_by(owner: str, settings: Mapping[str, float]) -> dict[str, float]:
    """The settings of a method, a granularity or iterative pruning, under their own names."""
    prefix = f"{owner}."
    return {
        name.removeprefix(prefix): value
        for name, value in settings.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True)
class FixedSettings:
    """Values by the names of their dimensions, at least one each, each once.

    settings: of methods, gates and iterative pruning.
    target_flops: absolute, or shares of the base network's.
    """

    settings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    target_flops: tuple[Bound, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> FixedSettings:
        """From texts such as rni.strength=1e-3 and rni.shift=0,3; ConfigError for anything else."""
        values: dict[str, list[str]] = {}
        for text in texts:
            name, equals, amounts = (part.strip() for part in text.partition("="))
            if not name or not equals or not amounts:
                raise ConfigError(
                    f"set must be NAME=VALUE, such as rni.strength=1e-3, got {text!r}", field="set"
                )
            values.setdefault(name, []).extend(amount.strip() for amount in amounts.split(","))
        targets = _unique(_target(each) for each in values.pop(TARGET, []))
        numbers = {
            name: _unique(_number(name, each) for each in given) for name, given in values.items()
        }
        return cls(numbers, targets)

    @property
    def has_several_values(self) -> bool:
        """Whether anything has more than one value, which makes a grid."""
        return any(len(v) > 1 for v in (self.target_flops, *self.settings.values()))

    def num_points(self, choices: Sequence[Choice]) -> int:
        """How many combinations there are of the values and of these choices."""
        points = sum(len(self.combinations(settings_of(*choice))) for choice in choices)
        return points * max(1, len(self.target_flops))

    def leaves(self, criterion: str, granularity: str) -> list[str]:
        """The settings of this method and its gates that are not fixed: they are searched."""
        ranges = setting_ranges(criterion, granularity)
        return [name for name in ranges if name not in self.settings]

    def require_known(self, choices: Sequence[Choice]) -> None:
        """ConfigError for the first setting that none of these choices has."""
        known = {name for choice in choices for name in settings_of(*choice)}
        everywhere = {f"{name}.{key}" for name, m in METHODS.items() for key in m.settings}
        for name in self.settings:
            if name in known:
                continue
            if name in ITERATIVE_SETTINGS:
                raise ConfigError(
                    f"set has no effect on {name} without the schedule iterative", field="set"
                )
            if name in everywhere:
                raise ConfigError(
                    f"set has no effect on {name}: the search tries no {name.partition('.')[0]}",
                    field="set",
                )
            raise ConfigError(
                f"set names an unknown setting {name!r}: {like(name, [*sorted(known), TARGET])}",
                field="set",
            )

    def combinations(self, names: Collection[str]) -> list[dict[str, float]]:
        """Every combination of the values of these settings, without those that are not fixed."""
        own = {name: values for name, values in self.settings.items() if name in names}
        return [dict(zip(own, point, strict=True)) for point in itertools.product(*own.values())]


def _unique(values: Iterator[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _number(name: str, text: str) -> float:
    """A value that means something to a penalty, whether or not a search would draw it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"set: {name} must be a finite number of at least 0, got {text!r}", field="set"
        )
    return value


def _target(text: str) -> Bound:
    try:
        (bound,) = Budget.parse(f"flops={text}").bounds
    except BudgetError as error:
        raise ConfigError(
            f"set: {TARGET} must be a number such as 30M or 25%, got {text!r}", field="set"
        ) from error
    return bound
