"""Pareto fronts: a better score for fewer FLOPs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

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


def hypervolume(points: Sequence[Point], base_flops: int, score: Score) -> float | None:
    """The area, 0 to 1, that the points dominate in validation score and 1 − FLOPs / base.

    Its far corner, of no worth, is the worst score at the FLOPs of the base network; what costs as
    much or more adds nothing. It grows with every point that joins the front. Exact, in two
    dimensions: the integral of the best score to be had for each share of the FLOPs. None for a
    score that is no share: it has no worst value, and one taken from the points that were seen
    would move with them, so that areas could not be compared.
    """
    if not score.is_share:
        return None
    steps = front(points, score)
    shares = [min(point.flops / base_flops, 1.0) for point in steps] + [1.0]
    return sum(
        (shares[i + 1] - shares[i]) * score.worth(point.validation_score)
        for i, point in enumerate(steps)
    )
