"""What `--set` fixes: dimensions of the search space at one value each, or a grid of several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pruning.cost import Bound, Budget
from pruning.errors import BudgetError, ConfigError
from search.config.methods import METHODS, setting_ranges
from search.config.settings import like

T = TypeVar("T")

TARGET = "target_flops"
"""The dimension that is no setting of a method."""


@dataclass(frozen=True)
class FixedSettings:
    """Values by the names of their dimensions, at least one each, each once.

    settings: of methods and gates.  target_flops: absolute, or shares of the base network's.
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

    def num_points(self, choices: Sequence[tuple[str, str]]) -> int:
        """How many combinations there are of the values, and of these methods and granularities."""
        return sum(
            math.prod(map(len, self._of(*choice).values())) * max(1, len(self.target_flops))
            for choice in choices
        )

    def leaves(self, criterion: str, granularity: str) -> list[str]:
        """The settings of this choice that are not fixed."""
        ranges = setting_ranges(criterion, granularity)
        return [name for name in ranges if name not in self.settings]

    def require_known(self, choices: Sequence[tuple[str, str]]) -> None:
        """ConfigError for the first setting that none of these choices has."""
        known = {name for choice in choices for name in setting_ranges(*choice)}
        everywhere = {f"{name}.{key}" for name, m in METHODS.items() for key in m.settings}
        for name in self.settings:
            if name in known:
                continue
            if name in everywhere:
                raise ConfigError(
                    f"set has no effect on {name}: the search tries no {name.partition('.')[0]}",
                    field="set",
                )
            raise ConfigError(
                f"set names an unknown setting {name!r}: {like(name, [*sorted(known), TARGET])}",
                field="set",
            )

    def _of(self, criterion: str, granularity: str) -> dict[str, tuple[float, ...]]:
        ranges = setting_ranges(criterion, granularity)
        return {name: values for name, values in self.settings.items() if name in ranges}


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
