"""Pareto fronts: a better score for fewer FLOPs."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from search.tasks.score import Score


class Point(Protocol):
    """What is compared."""

    @property
    def validation_score(self) -> float: ...

    @property
    def flops(self) -> float: ...


class Network(Protocol):
    """What has weights that came about somehow."""

    @property
    def origin(self) -> str: ...


P = TypeVar("P", bound=Point)
N = TypeVar("N", bound=Network)


def without_base(networks: Iterable[N]) -> list[N]:
    """The smaller networks alone: the base network, which they are made from, is no rival."""
    return [network for network in networks if network.origin != "base"]


def dominates(first: Point, second: Point, score: Score) -> bool:
    """Whether `first` is nowhere worse than `second` and somewhere better."""
    one, other = score.key(first.validation_score), score.key(second.validation_score)
    no_worse = one >= other and first.flops <= second.flops
    return no_worse and (one, first.flops) != (other, second.flops)


def front(points: Sequence[P], score: Score) -> list[P]:
    """The points that no other one dominates, by rising FLOPs; of equal ones the first stays.

    The last is the best. The score of validation decides: that of the test split is never looked
    at here.
    """
    result: list[P] = []
    key = score.key
    for point in sorted(points, key=lambda p: (p.flops, -key(p.validation_score))):
        if not result or key(point.validation_score) > key(result[-1].validation_score):
            result.append(point)
    return result


class Front(Generic[P]):
    """The `front` of the points that were added so far, kept up to date by each.

    In time by how many are on it, not by how many there were.
    """

    def __init__(self, score: Score) -> None:
        self._key = score.key
        self._flops: list[float] = []
        self._points: list[P] = []

    @property
    def points(self) -> tuple[P, ...]:
        """By rising FLOPs."""
        return tuple(self._points)

    def add(self, point: P) -> None:
        """Let a point count; of equal ones the first stays."""
        worth = self._key(point.validation_score)
        behind = bisect_right(self._flops, point.flops)
        if behind and self._key(self._points[behind - 1].validation_score) >= worth:
            return
        place = bisect_left(self._flops, point.flops)
        end = place
        while end < len(self._points) and self._key(self._points[end].validation_score) <= worth:
            end += 1
        self._points[place:end] = [point]
        self._flops[place:end] = [point.flops]


def best(points: Sequence[P], score: Score) -> P | None:
    """The point of the best score, of equal ones the cheapest; None of none."""
    return max(points, key=lambda p: (score.key(p.validation_score), -p.flops), default=None)


def spread(points: Sequence[P], count: int) -> list[P]:
    """At most `count` of the points, evenly spaced over their order, both ends first."""
    if len(points) <= count:
        return list(points)
    if count == 1:
        return [points[-1]]
    steps = (len(points) - 1) / (count - 1)
    return [points[round(i * steps)] for i in range(count)]


@dataclass(frozen=True)
class Reference:
    """The far corner of the hypervolume, and the cheap end of its scale; JSON-able by asdict.

    score: of a network that guesses.  flops: the most that may be spent.
    least_flops: below which nothing more is gained, less than `flops`.
    """

    score: float
    flops: float
    least_flops: float

    def sparing(self, flops: float) -> float:
        """From 0, at the most that may be spent or above, to 1 at the least; by logarithms."""
        decades = math.log(self.flops / min(self.least_flops, self.flops * (1 - 1e-9)))
        spared = math.log(self.flops / max(flops, 1.0))
        return min(max(spared / decades, 0.0), 1.0)

    def worth(self, value: float, score: Score) -> float:
        """From 0, guessing or worse, to 1, the best there is; of a share."""
        guessed = score.worth(self.score)
        return max(score.worth(value) - guessed, 0.0) / max(1 - guessed, 1e-9)


class Hypervolume:
    """The area, 0 to 1, that networks dominate, in worth and in the logarithm of spared FLOPs.

    The far corner is a network that guesses and costs all that the budget allows. Exact, in two
    dimensions, and kept up to date by each network that is added: in time by the logarithm of how
    many the front has. `value` is None for a score that is no share: it has no best value, and one
    taken from the networks that were seen would move with them.
    """

    def __init__(self, reference: Reference | None, score: Score) -> None:
        self._reference, self._score = reference, score
        self._front: list[tuple[float, float]] = []
        self._area = 0.0

    @property
    def value(self) -> float | None:
        """Of all that were added; None where nothing is measured."""
        if self._reference is None or not self._score.is_share:
            return None
        return self._area

    def add(self, point: Point) -> None:
        """Count a network; one that others dominate adds nothing."""
        if self._reference is None or not self._score.is_share:
            return
        spared = self._reference.sparing(point.flops)
        worth = self._reference.worth(point.validation_score, self._score)
        place = bisect_left(self._front, (spared, -math.inf))
        highest = self._front[place][1] if place < len(self._front) else 0.0
        if worth <= highest:
            return
        # Leftwards, dearer ones are dominated up to the first that is worth more.
        right = spared
        while place > 0 and self._front[place - 1][1] <= worth:
            place -= 1
            left, lower = self._front.pop(place)
            self._area += (right - left) * (worth - highest)
            right, highest = left, lower
        left = self._front[place - 1][0] if place else 0.0
        self._area += (right - left) * (worth - highest)
        if place < len(self._front) and self._front[place][0] == spared:
            self._front.pop(place)
        self._front.insert(place, (spared, worth))
