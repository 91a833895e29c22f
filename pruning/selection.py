"""Selection: from scores and a budget to the channels that stay. Pure functions of numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.channel_graph import ChannelGraph, ChannelGroup
from pruning.cost import Budget, Cost
from pruning.errors import PlanError, UnreachableBudgetError

MIN_CHANNELS = 3
"""The floor of the RNI authors' experiments: at least this many channels stay in a group."""


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

    def units_kept(self, graph: ChannelGraph) -> dict[str, NDArray[np.bool_]]:
        """Per group of `graph`, whether each unit stays; PlanError if the plan does not fit."""
        kept = {group.name: np.ones(group.num_units, dtype=bool) for group in graph.groups}
        for name, channels in self.keep.items():
            kept[name] = _units_of(graph.group(name), channels)
        return kept


def _units_of(group: ChannelGroup, channels: tuple[int, ...]) -> NDArray[np.bool_]:
    if not channels:
        raise PlanError(f"the plan empties group {group.name!r}: keep at least 1 channel")
    wrong = [c for c in channels if not 0 <= c < group.width]
    if wrong:
        raise PlanError(
            f"the plan keeps channel {wrong[0]} of group {group.name!r}, "
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
    return num_kept > 0


def select(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    budget: Budget,
    *,
    min_channels: int = MIN_CHANNELS,
) -> KeepPlan:
    """Removes the lowest scores of all groups together until `budget` is met, and no further.

    scores: one score per channel, shape (width,), for each group that may lose channels; the
        channels of a unit are judged by their mean. NaN is refused. Ties are broken by order.
    budget: bounds as shares refer to the traced network.
    min_channels: channels that stay in each group, or its width if it has fewer.

    Raises UnreachableBudgetError, naming the nearest reachable cost, if the floor of every
    scored group is still over budget.
    """
    limits = budget.absolute(graph.cost())
    order = _removal_order(scores, graph, min_channels)

    def widths_after(removed: int) -> dict[str, int]:
        counts = np.bincount([group for group, _ in order[:removed]], minlength=len(graph.groups))
        return {
            name: graph.group(name).width - int(counts[graph.index(name)]) * graph.group(name).unit
            for name in scores
        }

    floor = graph.cost(widths_after(len(order)))
    if not limits.allows(floor):
        raise unreachable(limits, floor)
    least = bisect_left(
        range(len(order)),
        True,
        key=lambda removed: limits.allows(graph.cost(widths_after(removed))),
    )
    removed_units: dict[str, list[int]] = {name: [] for name in scores}
    for group, unit in order[:least]:
        removed_units[graph.groups[group].name].append(unit)
    return KeepPlan(
        {
            name: _channels_without(graph.group(name), removed_units[name])
            for name in sorted(scores, key=graph.index)
        }
    )


def unreachable(limits: Budget, floor: Cost) -> UnreachableBudgetError:
    """The error for a budget below the least cost that can be reached."""
    parts = [
        f"{name} of at most {limits.limit(name):,.0f} (nearest reachable: {getattr(floor, name):,})"
        for name, excess in limits.excess(floor).items()
        if excess > 0
    ]
    return UnreachableBudgetError(f"the budget cannot be reached: {'; '.join(parts)}")


def _floor_units(group: ChannelGroup, min_channels: int) -> int:
    return min(group.num_units, -(-min_channels // group.unit))


def _removal_order(
    scores: Mapping[str, Tensor], graph: ChannelGraph, min_channels: int
) -> list[tuple[int, int]]:
    """(group, unit) from the least important on; the best of each group are not in it."""
    if min_channels < 1:
        raise PlanError(f"min_channels must be at least 1, got {min_channels}")
    entries: list[tuple[float, int, int]] = []
    for name, values in scores.items():
        group = graph.group(name)
        ranked = _unit_scores(group, values)
        removable = np.argsort(ranked, kind="stable")[
            : len(ranked) - _floor_units(group, min_channels)
        ]
        entries += [(float(ranked[u]), graph.index(name), int(u)) for u in removable]
    return [(group, unit) for _, group, unit in sorted(entries)]


def _unit_scores(group: ChannelGroup, values: Tensor) -> NDArray[np.float64]:
    if group.pinned is not None:
        raise PlanError(f"group {group.name!r} has scores but is pinned: {group.pinned}")
    if values.shape != (group.width,):
        raise PlanError(
            f"group {group.name!r} needs {group.width} scores, got shape {tuple(values.shape)}"
        )
    numbers = values.detach().to("cpu", torch.float64).numpy()
    if np.isnan(numbers).any():
        raise PlanError(f"group {group.name!r} has a score that is not a number")
    return np.bincount(group.unit_of_channel, weights=numbers) / group.unit


def _channels_without(group: ChannelGroup, removed_units: list[int]) -> tuple[int, ...]:
    kept = ~np.isin(group.unit_of_channel, removed_units)
    return tuple(np.flatnonzero(kept).tolist())
