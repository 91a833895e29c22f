"""From one profile to the member of its family that fills a budget.

Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", §3.2:
block j becomes B(N_i, α·N_mj, N_o), with one α for the whole network.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from copycat.width_profile import WidthProfile
from pruning.channel_graph import ChannelGraph
from pruning.cost import Budget
from pruning.selection import unreachable

_ROUNDING = 1e-9
"""Far above the rounding of α·width, far below a step: α at a step takes it."""

_ENOUGH = 2.0**20
"""No profile is widened beyond this; it bounds the search where a budget bounds nothing."""


def scaled(profile: WidthProfile, graph: ChannelGraph, alpha: float) -> WidthProfile:
    """Every width times α, rounded half up to whole units, at least the fewest that work.

    graph: of the network without the profile's removed structures (see copycat.graph_of).
    """
    widths = {}
    for name, width in profile.widths.items():
        group = graph.group(name)
        unit = group.unit
        widths[name] = unit * max(group.floor(), math.floor(alpha * width / unit + 0.5 + _ROUNDING))
    return WidthProfile(widths, profile.removed)


def find_alpha(profile: WidthProfile, graph: ChannelGraph, budget: Budget) -> float:
    """The largest α, up to rounding steps, whose network meets `budget`.

    budget: shares refer to the traced network. Raises UnreachableBudgetError, naming the
    nearest reachable cost, if the fewest units per group are over budget.
    """
    limits = budget.absolute(graph.cost())

    def fits(alpha: float) -> bool:
        return limits.allows(graph.cost(scaled(profile, graph, alpha).widths))

    if not fits(0.0):
        raise unreachable(limits, graph.cost(scaled(profile, graph, 0.0).widths))
    high = 1.0
    while fits(high) and high < _ENOUGH:
        high *= 2
    steps = _rounding_steps(profile, graph, high)
    index = bisect_right(steps, False, key=lambda alpha: not fits(alpha))
    return steps[index - 1] if index else 0.0


def _rounding_steps(profile: WidthProfile, graph: ChannelGraph, high: float) -> list[float]:
    """Every α up to `high` at which some width grows by a unit, in rising order."""
    steps: set[float] = set()
    for name, width in profile.widths.items():
        units = width / graph.group(name).unit
        steps.update((k + 0.5) / units for k in range(1, math.floor(high * units + 0.5)))
    return sorted(steps)


def rescale(profile: WidthProfile, graph: ChannelGraph, budget: Budget) -> WidthProfile:
    """`profile` times the largest α that meets `budget`; other groups as in the base network."""
    return scaled(profile, graph, find_alpha(profile, graph, budget))


def uniform_profile(graph: ChannelGraph, names: tuple[str, ...], budget: Budget) -> WidthProfile:
    """The base network with these groups narrowed by one factor: the baseline to beat."""
    return rescale(WidthProfile.of(graph, names), graph, budget)
