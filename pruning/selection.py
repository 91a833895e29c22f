"""Selection: from scores and a target to the channels that stay. Pure functions of numbers.

Channels go in the order of `pruning.ranking` until a budget is met, or as long as the caller likes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruning.cost import Budget, Cost
from pruning.errors import PlanError, UnreachableBudgetError
from pruning.graph.channel_graph import ChannelGraph, ChannelGroup
from pruning.ranking import Step, removal_steps
from pruning.restrictions import Restrictions
from pruning.rules import MIN_CHANNELS, Rules, Scope

__all__ = [
    "MIN_CHANNELS",
    "KeepPlan",
    "Scope",
    "absolute_limits",
    "least_widths",
    "removal_order",
    "select",
    "unreachable",
]


@dataclass(frozen=True)
class KeepPlan:
    """Which channels stay: sorted channel numbers per group name.

    Groups that are left out stay whole. JSON-able through `dict(plan.keep)`.
    """

    keep: Mapping[str, tuple[int, ...]]

    @property
    def widths(self) -> dict[str, int]:
        """Width per group of the plan."""
        return {name: len(channels) for name, channels in self.keep.items()}

    def within(self, larger: KeepPlan) -> KeepPlan:
        """The same channels, counted among those that `larger` keeps, which has all of them."""
        return KeepPlan(
            {
                name: tuple(np.searchsorted(larger.keep[name], channels).tolist())
                for name, channels in self.keep.items()
            }
        )

    def among(self, larger: KeepPlan) -> KeepPlan:
        """The channels that `larger` keeps under these numbers: the inverse of `within`.

        Groups that this plan leaves out are left as `larger` has them, and the other way round.
        """
        keep = {**self.keep, **larger.keep}
        for name in self.keep.keys() & larger.keep.keys():
            keep[name] = tuple(larger.keep[name][channel] for channel in self.keep[name])
        return KeepPlan(keep)

    def units_kept(self, graph: ChannelGraph) -> dict[str, NDArray[np.bool_]]:
        """Per group of `graph`, whether each unit stays; PlanError if the plan does not fit."""
        kept = {group.name: np.ones(group.num_units, dtype=bool) for group in graph.groups}
        for name, channels in self.keep.items():
            kept[name] = _units_of(graph.group(name), channels)
        return kept


def _units_of(group: ChannelGroup, channels: tuple[int, ...]) -> NDArray[np.bool_]:
    if len(channels) == 0:
        raise PlanError(f"the plan empties group {group.name!r}: keep at least 1 channel")
    not_whole = [c for c in channels if type(c) is not int and not _is_whole(c)]
    if not_whole:
        raise PlanError(
            f"the plan of group {group.name!r} holds channel numbers, whole ones from 0 to "
            f"{group.width - 1}, got {not_whole[0]!r}"
        )
    outside = [c for c in channels if not 0 <= c < group.width]
    if outside:
        raise PlanError(
            f"the plan keeps channel {outside[0]} of group {group.name!r}, "
            f"which has channels 0 to {group.width - 1}"
        )
    mask = np.zeros(group.width, dtype=bool)
    mask[list(channels)] = True
    if len(channels) != int(mask.sum()):
        raise PlanError(f"the plan names a channel of group {group.name!r} twice")
    if group.pinned is not None and not mask.all():
        raise PlanError(
            f"the plan removes channels of group {group.name!r}, which is pinned: {group.pinned}"
        )
    num_kept = np.bincount(group.unit_of_channel[mask], minlength=group.num_units)
    if ((num_kept != 0) & (num_kept != group.unit)).any():
        raise PlanError(
            f"channels of group {group.name!r} go together in units of {group.unit}: "
            "the plan splits a unit"
        )
    group.check_floor(len(channels))
    return num_kept > 0


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def select(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    target: Budget,
    *,
    min_channels: int = MIN_CHANNELS,
    divisor: int = 1,
    scope: Scope = "global",
    residual: bool = True,
    ignore: Iterable[str] = (),
    max_removed: Mapping[str, float] | None = None,
    only: Iterable[str] = (),
    cost_exponent: float = 0.0,
) -> KeepPlan:
    """Removes the lowest scores until the target is met, and no further.

    scores: one score per channel, shape (width,), for each group that may lose channels; the
        channels of a unit are judged by their mean. NaN is refused. Ties are broken by order.
    target: shares refer to the traced network; see `absolute_limits`.
    min_channels: channels that stay in each group (3: RNI, §5.1), or its width if it has fewer;
        more where the network needs more.
    divisor: a group that loses channels is left with a multiple of this (8, 16, 32 …) and of
        its unit, the floor rounded up to one; a group too narrow for that stays whole. Channels
        then go in chunks from one such width to the next, ranked by the mean of their scores.
    scope: "global" ranks the channels of all groups together (RNI, §5.1; Taylor). "uniform"
        takes the same share of every group, by its own lowest scores, rounded down to what the
        group can lose and as far as its floor allows (UCS, the baseline of RNI, §5.1): the
        least share that meets the budget.
    residual: whether residual streams are pruned. RNI (§5.1) and Crowley et al. (Fig. 2)
        leave them whole, the Taylor paper (§4.2) prunes them. If not, nobody looks at their
        scores.
    ignore, max_removed, only: what stays whole, what loses no more than a share and what alone is
        pruned, by patterns of the names of layers, such as ["layer4.*"], {"layer3.*": 0.5} and
        ["*.conv1"]; see `Restrictions`.
    cost_exponent: from 0 to 1: channels go by their scores divided by what their removal saves of
        the target's quantities, to this power, worked out anew as widths shrink. At 0, as in the
        papers, scores alone decide, which trades in the papers' quantity: filters. At 1 the least
        score is lost per FLOP (byte, parameter …) saved. In "global" scope only.

    Raises ConfigError for a pattern that fits no layer, PlanError for scores or rules that do not
    fit the graph, and UnreachableBudgetError, naming the nearest reachable cost, if the floors of
    all scored groups forbid the target.
    """
    restrictions = Restrictions(tuple(ignore), max_removed or {}, tuple(only))
    restrictions.check(graph)
    whole = graph
    graph = restrictions.of(graph)
    scores = {n: s for n, s in scores.items() if graph.group(n).pinned == whole.group(n).pinned}
    rules = Rules(min_channels, divisor, scope, residual, cost_exponent)
    groups = rules.prunable(graph, scores)
    if graph.pruned_layers is None:
        graph = graph.pruning(group.name for group in groups)
    steps = list(removal_steps(scores, graph, rules, quantities=target.quantities))
    limits = absolute_limits(target, graph, scores, rules)
    return _plan_without(graph, groups, steps[: _fewest_steps_within(limits, graph, steps)])


def absolute_limits(
    budget: Budget, graph: ChannelGraph, names: Iterable[str], rules: Rules
) -> Budget:
    """The budget in absolute numbers: what pruning these groups by these rules is held to.

    A share of `channels` leaves as many as remain when the share that goes is rounded down: the
    share of all of them, or in "uniform" scope that of each group, as far as its floor allows. So
    counted, the FLOPs that the RNI paper reports for UCS (Tables 2 and 3: 25.19, 1.13, 50.39 and
    14.79 %) come out exactly. Other shares are those of the cost of `graph`, rounded down.
    """
    base = graph.cost()
    if rules.scope == "global":
        return budget.absolute(base)
    groups = [group for group in rules.prunable(graph, names) if group.pinned is None]

    def of_each_group(share: float) -> float:
        widths = {group.name: group.unit * rules.units_kept(group, share) for group in groups}
        return graph.cost(widths).of("channels")

    bounds = (
        replace(bound, value=of_each_group(bound.value), is_share=False)
        if bound.quantity == "channels" and bound.is_share
        else bound
        for bound in budget.bounds
    )
    return Budget(tuple(bounds)).absolute(base)


def _fewest_steps_within(limits: Budget, graph: ChannelGraph, steps: Sequence[Step]) -> int:
    """How many steps meet the limits; UnreachableBudgetError if not even all of them do."""

    def is_met(num_steps: int) -> bool:
        return limits.allows(graph.cost(_widths_without(graph, steps[:num_steps])))

    if not is_met(len(steps)):
        raise unreachable(limits, graph.cost(_widths_without(graph, steps)))
    return bisect_left(range(len(steps)), True, key=is_met)


def removal_order(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    *,
    kept: KeepPlan | None = None,
    min_channels: int = MIN_CHANNELS,
    divisor: int = 1,
    scope: Scope = "global",
    residual: bool = True,
    cost_exponent: float = 0.0,
    quantities: Sequence[str] = ("flops",),
) -> list[tuple[str, int]]:
    """Every unit that can go, as (group name, unit), the first to go first.

    The order in which `select` removes; for iterative pruning, which takes the first few. The
    units of a chunk follow each other: with a divisor, or in "uniform" scope, a prefix that
    ends inside a chunk or a share leaves widths in between.
    kept: what is left after earlier removals; what it lacks is neither in the order nor looked
        at, and floors hold for what it leaves. Everything by default.
    quantities: of the target, by which `cost_exponent` weighs scores.

    Everything else is as for `select`. Raises PlanError likewise, and for a plan that does not
    fit the graph.
    """
    rules = Rules(min_channels, divisor, scope, residual, cost_exponent)
    units_kept = (kept or KeepPlan({})).units_kept(graph)
    steps = removal_steps(scores, graph, rules, units_kept, quantities)
    return [
        (graph.groups[chunk.group].name, unit)
        for step in steps
        for chunk in step
        for unit in chunk.units
    ]


def least_widths(
    graph: ChannelGraph,
    names: Iterable[str],
    *,
    min_channels: int = MIN_CHANNELS,
    divisor: int = 1,
    residual: bool = True,
) -> dict[str, int]:
    """The widths of these groups when `select` has removed all it may.

    For a check before training: they depend on no score, and the cost at them is the least that
    `select` can reach. Arguments as for `select`; PlanError for rules that do not fit the graph.
    """
    rules = Rules(min_channels, divisor, residual=residual)
    return {
        group.name: rules.floor(group) * group.unit
        for group in rules.prunable(graph, names)
        if group.pinned is None
    }


def unreachable(limits: Budget, floor: Cost) -> UnreachableBudgetError:
    """The error for a budget below the least cost that can be reached."""
    parts = [
        f"{name} of at most {limits.limit(name):,.0f} (nearest reachable: {getattr(floor, name):,})"
        for name, excess in limits.excess(floor).items()
        if excess > 0
    ]
    return UnreachableBudgetError(f"the budget cannot be reached: {'; '.join(parts)}")


def _widths_without(graph: ChannelGraph, steps: Sequence[Step]) -> dict[str, int]:
    """The widths of the groups that lose something in these steps."""
    removed: Counter[int] = Counter()
    for chunk in (chunk for step in steps for chunk in step):
        removed[chunk.group] += len(chunk.units)
    losing = ((graph.groups[number], count) for number, count in removed.items())
    return {group.name: group.width - count * group.unit for group, count in losing}


def _plan_without(
    graph: ChannelGraph, groups: Iterable[ChannelGroup], steps: Sequence[Step]
) -> KeepPlan:
    """What is left of `groups` after these steps."""
    removed: dict[str, list[int]] = {group.name: [] for group in groups}
    for chunk in (chunk for step in steps for chunk in step):
        removed[graph.groups[chunk.group].name] += chunk.units
    return KeepPlan(
        {name: _channels_without(graph.group(name), units) for name, units in removed.items()}
    )


def _channels_without(group: ChannelGroup, removed_units: list[int]) -> tuple[int, ...]:
    kept = ~np.isin(group.unit_of_channel, removed_units)
    return tuple(np.flatnonzero(kept).tolist())
