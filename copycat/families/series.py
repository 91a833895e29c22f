"""Shapes in rising order of one parameter, and the largest of them that meets a condition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from copycat.builder import Builder
from copycat.width_profile import WidthProfile
from pruning.cost import Cost

_FEW = 64
"""So many roundings are listed and sorted; more of them are first halved by their parameter."""

_HALVINGS = 60
"""After so many halvings an interval holds no further number; equal steps may still be many."""


@dataclass(frozen=True)
class Shape:
    """The shape of a network: widths, and the builder they apply to.

    builder: None for the base network's own.
    """

    profile: WidthProfile
    builder: Builder | None = field(default=None)


class Series(ABC):
    """Shapes in rising order of one parameter: none costs less than one of a lower parameter."""

    @property
    @abstractmethod
    def least(self) -> float:
        """The parameter of the smallest shape."""

    @property
    @abstractmethod
    def most(self) -> float:
        """The parameter of the largest shape."""

    @abstractmethod
    def shape(self, parameter: float) -> Shape:
        """The shape at any parameter from `least` to `most`."""

    def named(self, parameter: float) -> float:
        """A parameter of the same shape as this one, to call it by."""
        return parameter

    @abstractmethod
    def cost(self, shape: Shape) -> Cost:
        """What a shape of the series costs, in closed form."""

    @abstractmethod
    def num_steps(self, low: float, high: float) -> int:
        """About how many `steps` there are."""

    @abstractmethod
    def steps(self, low: float, high: float) -> Sequence[float]:
        """Every parameter above `low` and at most `high` at which the shape changes, rising."""

    def wider(self, _shape: Shape, _beyond: float) -> Iterator[Callable[[Shape], Shape]]:
        """Changes that each widen one group of `shape`, to a rounding of the shape at `beyond`."""
        return iter(())


def largest(
    series: Series, fits: Callable[[Shape], bool], *, may_round_up: bool = True
) -> tuple[float, Shape] | None:
    """The largest shape that fits, and its parameter; None if the smallest does not.

    The parameter is the largest step whose shape fits: the shape at the next step does not.
    Then groups of that shape are widened one by one where a rounding up of the shape at that
    next step allows it, the widest rounding error first, as long as the shape fits. What is
    left over is therefore too little for any rounding of this parameter, or of the next larger
    one, that is at least as wide everywhere.

    fits: must not become true again with a larger parameter or a wider group.
    may_round_up: whether groups are widened at last.
    """
    if not fits(series.shape(series.least)):
        return None
    # 1 comes first, and is kept if its shape is the one: there the profile is found by its name
    low, high = series.least, min(max(1.0, series.least), series.most)
    while fits(series.shape(high)):
        if high >= series.most:
            return series.most, series.shape(series.most)
        low, high = high, min(2 * high, series.most)
    for _ in range(_HALVINGS):
        if series.num_steps(low, high) <= _FEW:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if fits(series.shape(middle)) else (low, middle)
    steps = series.steps(low, high)
    index = bisect_right(steps, False, key=lambda step: not fits(series.shape(step)))
    parameter = series.named(steps[index - 1] if index else low)
    shape = series.shape(parameter)
    beyond = steps[index] if index < len(steps) else high
    for widened in series.wider(shape, beyond) if may_round_up else ():
        if fits(candidate := widened(shape)):
            shape = candidate
    return parameter, shape
