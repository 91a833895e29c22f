"""From one profile to the member of its family that fills a budget.

Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", §3.2:
block j becomes B(N_i, α·N_mj, N_o), with one α for the whole network.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from copycat.families.series import Series, Shape, largest
from copycat.width_profile import MOST_CHANNELS, WidthProfile
from pruning.cost import Budget, Cost
from pruning.errors import ProfileError
from pruning.graph.channel_graph import ChannelGraph
from pruning.selection import unreachable

_ROUNDING = 1e-9
"""In steps of a group: far above the rounding of α·width, far below 1: α at a step takes it."""

MOST_WIDENED = 1024.0
"""No group is widened beyond so many times its target: a budget may bound nothing."""

Floats = NDArray[np.float64]


class WidthSeries(Series):
    """α times one target per group, rounded to widths that the groups may have.

    graph: of the network without the profile's removed structures.
    targets: real widths at α = 1, of prunable groups.
    profile: widths of further groups, which stay as they are, and the removed structures.
    divisor: a group that is not as wide as in the base network has a multiple of this (8, 16,
        32 …) and of its unit; one that is too narrow for that stays whole (the rules of
        pruning.select).
    unit: what α = 1 is called: members are given by unit·α (k = 2 for WRN-40-2).

    Raises ProfileError for a divisor below 1.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        targets: Mapping[str, float],
        profile: WidthProfile | None = None,
        *,
        divisor: int = 1,
        unit: float = 1.0,
    ) -> None:
        if divisor < 1:
            raise ProfileError(f"divisor must be at least 1, got {divisor}")
        profile = profile or WidthProfile({})
        profile.check(graph)
        self._graph, self._profile, self._names = graph, profile, tuple(targets)
        groups = [graph.group(name) for name in targets]
        self._targets = np.array([*targets.values()], dtype=np.float64) / unit
        self._full = np.array([g.width for g in groups], dtype=np.float64)
        self._steps = np.array([math.lcm(divisor, g.unit) for g in groups], dtype=np.float64)
        floors = np.array([g.floor() * g.unit for g in groups], dtype=np.float64)
        floors = np.ceil(floors / self._steps) * self._steps
        self._floors = np.where(floors > self._full, self._full, floors)
        self._most = unit * MOST_WIDENED
        if targets:
            self._most = min(self._most, (MOST_CHANNELS - divisor) / float(self._targets.max()))

    @property
    def least(self) -> float:
        return 0.0

    @property
    def most(self) -> float:
        return self._most

    def shape(self, parameter: float) -> Shape:
        """Every target times α, rounded to the nearest width, half up."""
        return self._shape(self._nearest(parameter))

    def cost(self, shape: Shape) -> Cost:
        return self._graph.cost(shape.profile.widths)

    def num_steps(self, low: float, high: float) -> int:
        return int(((high - low) * self._targets / self._steps + 1).sum())

    def steps(self, low: float, high: float) -> Sequence[float]:
        """Where α times a target is half way between two widths."""
        parameters: set[float] = set()
        for number, target in enumerate(self._targets.tolist()):
            end = high + 2 * _ROUNDING * float(self._steps[number]) / target
            edges = self._edges(number, low * target, end * target)
            parameters.update(edge / target for edge in edges if low < edge / target <= end)
        return sorted(parameters)

    def wider(self, shape: Shape, beyond: float) -> Iterator[Callable[[Shape], Shape]]:
        """The groups that a rounding of `beyond` may widen, the widest rounding error first."""
        widths = np.array([shape.profile.widths[name] for name in self._names], dtype=np.float64)
        short = (beyond * self._targets - widths) / self._steps
        _, following = self._neighbours(widths)
        for number in np.argsort(-short, kind="stable").tolist():
            if short[number] > _ROUNDING:
                yield functools.partial(_with_width, self._names[number], int(following[number]))

    def _shape(self, widths: Floats) -> Shape:
        scaled = dict(zip(self._names, map(int, widths.tolist()), strict=True))
        named = {**dict.fromkeys(self._profile.widths, 0), **scaled}
        widths_of = {name: scaled.get(name) or self._profile.widths[name] for name in named}
        return Shape(WidthProfile(widths_of, self._profile.removed))

    def _nearest(self, alpha: float) -> Floats:
        wanted = alpha * self._targets
        below, above = self._neighbours(wanted)
        is_up = wanted - below + 2 * _ROUNDING * self._steps >= above - wanted
        return np.where(is_up & (wanted > below), above, below)

    def _neighbours(self, wanted: Floats) -> tuple[Floats, Floats]:
        """The widest permitted widths of at most `wanted` (or the floor) and the next wider."""
        below = self._steps * np.floor(wanted / self._steps + _ROUNDING)
        above = below + self._steps
        is_full_below = (self._full <= wanted) & (self._full > below)
        is_full_above = (self._full > wanted) & (self._full < above)
        below = np.where(is_full_below, self._full, below)
        above = np.where(is_full_above, self._full, above)
        is_least = below < self._floors
        below = np.where(is_least, self._floors, below)
        beyond = self._steps * (np.floor(self._floors / self._steps) + 1)
        beyond = np.where((self._full > self._floors) & (self._full < beyond), self._full, beyond)
        return below, np.where(is_least, beyond, above)

    def _edges(self, number: int, low: float, high: float) -> list[float]:
        """Half way between each two neighbouring widths, about from `low` to `high`."""
        step, full, floor = (
            float(values[number]) for values in (self._steps, self._full, self._floors)
        )
        first, last = math.floor(low / step) - 1, math.ceil(high / step) + 1
        widths = {step * count for count in range(first, last + 1)}
        if step * first <= full <= step * last:
            widths.add(full)
        permitted = sorted({max(width, floor) for width in widths})
        return [(a + b) / 2 for a, b in itertools.pairwise(permitted)]


def scale_of(profile: WidthProfile, graph: ChannelGraph, *, divisor: int = 1) -> WidthSeries:
    """α·profile: its groups scaled together, other groups as in the base network.

    Raises ProfileError for a profile that does not fit the graph.
    """
    profile.check(graph)
    targets = {
        name: float(width)
        for name, width in profile.widths.items()
        if graph.group(name).pinned is None
    }
    return WidthSeries(graph, targets, profile, divisor=divisor)


def scaled(
    profile: WidthProfile, graph: ChannelGraph, alpha: float, *, divisor: int = 1
) -> WidthProfile:
    """Every width times α, rounded to the nearest width that works, half up.

    graph: of the network without the profile's removed structures.
    """
    return scale_of(profile, graph, divisor=divisor).shape(alpha).profile


def find_alpha(
    profile: WidthProfile, graph: ChannelGraph, budget: Budget, *, divisor: int = 1
) -> float:
    """The largest α, up to rounding steps, whose network meets `budget`.

    budget: shares refer to the traced network; its channels are those of the profile's layers,
    unless the graph says which are pruned. Raises UnreachableBudgetError, naming the
    nearest reachable cost, if the fewest units per group are over budget.
    """
    return _filled(profile, graph, budget, divisor)[0]


def rescale(
    profile: WidthProfile, graph: ChannelGraph, budget: Budget, *, divisor: int = 1
) -> WidthProfile:
    """`profile` times the largest α that meets `budget`; other groups as in the base network.

    Where a rounding up of single groups still fits, they are one step wider (see
    copycat.families.series.largest). Raises as `find_alpha` does.
    """
    return _filled(profile, graph, budget, divisor)[1].profile


def uniform_profile(
    graph: ChannelGraph, names: tuple[str, ...], budget: Budget, *, divisor: int = 1
) -> WidthProfile:
    """The base network with these groups narrowed by one factor: the baseline to beat."""
    return rescale(WidthProfile.of(graph, names), graph, budget, divisor=divisor)


def _filled(
    profile: WidthProfile, graph: ChannelGraph, budget: Budget, divisor: int
) -> tuple[float, Shape]:
    if graph.pruned_layers is None:
        graph = graph.pruning(n for n in profile.widths if graph.group(n).pinned is None)
    limits = budget.absolute(graph.cost())
    series = scale_of(profile, graph, divisor=divisor)
    largest_fitting = largest(series, lambda shape: limits.allows(series.cost(shape)))
    if largest_fitting is None:
        raise unreachable(limits, series.cost(series.shape(series.least)))
    return largest_fitting


def _with_width(name: str, width: int, shape: Shape) -> Shape:
    widths = {**shape.profile.widths, name: width}
    return Shape(WidthProfile(widths, shape.profile.removed), shape.builder)
