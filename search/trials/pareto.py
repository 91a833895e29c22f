"""Pareto fronts: accuracy up, FLOPs down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Point(Protocol):
    """What is compared."""

    @property
    def validation_score(self) -> float: ...

    @property
    def flops(self) -> int: ...


class Network(Protocol):
    """A network that says how its weights came about."""

    @property
    def origin(self) -> str: ...


P = TypeVar("P", bound=Point)
N = TypeVar("N", bound=Network)


def dominates(first: Point, second: Point) -> bool:
    """Whether `first` is nowhere worse than `second` and somewhere better."""
    no_worse = first.validation_score >= second.validation_score and first.flops <= second.flops
    return no_worse and (first.validation_score, first.flops) != (
        second.validation_score,
        second.flops,
    )


def front(points: Sequence[P]) -> list[P]:
    """The points that no other one dominates, by rising FLOPs; of equal ones the first stays.

    Validation accuracy decides: test accuracy is never looked at here.
    """
    result: list[P] = []
    for point in sorted(points, key=lambda p: (p.flops, -p.validation_score)):
        if not result or point.validation_score > result[-1].validation_score:
            result.append(point)
    return result


def without_base(networks: Iterable[N]) -> list[N]:
    """Those that compete: the base network, which they are held against, is not one of them."""
    return [network for network in networks if network.origin != "base"]


def spread(points: Sequence[P], count: int) -> list[P]:
    """At most `count` of the points, evenly spaced over their order, both ends first."""
    if len(points) <= count:
        return list(points)
    if count == 1:
        return [points[-1]]
    steps = (len(points) - 1) / (count - 1)
    return [points[round(i * steps)] for i in range(count)]


def hypervolume(points: Sequence[Point], base_flops: int) -> float:
    """The area, 0 to 1, that the points dominate in validation accuracy and 1 − FLOPs / base.

    Its far corner, of no worth, is accuracy 0 at the FLOPs of the base network; what costs as
    much or more adds nothing. It grows with every point that joins the front. Exact, in two
    dimensions: the integral of the best accuracy to be had for each share of the FLOPs.
    """
    steps = front(points)
    shares = [min(point.flops / base_flops, 1.0) for point in steps] + [1.0]
    return sum(
        (shares[i + 1] - shares[i]) * point.validation_score for i, point in enumerate(steps)
    )
