"""The order in which channels go: by score or evenly, chunk by chunk, down to a floor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.errors import PlanError
from pruning.graph.channel_graph import ChannelGraph, ChannelGroup

Scope = Literal["global", "uniform"]

MIN_CHANNELS = 3
"""The floor of the RNI authors' experiments (§5.1): at least so many channels stay in a group."""


@dataclass(frozen=True)
class Rules:
    """What may be removed, in what steps; `pruning.selection.select` explains each."""

    min_channels: int = MIN_CHANNELS
    divisor: int = 1
    scope: Scope = "global"
    residual: bool = True

    def __post_init__(self) -> None:
        for name in ("min_channels", "divisor"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scope not in get_args(Scope):
            raise PlanError(f"scope must be one of {', '.join(get_args(Scope))}, got {self.scope}")

    def prunable(self, graph: ChannelGraph, names: Iterable[str]) -> tuple[ChannelGroup, ...]:
        """Those of the named groups that may lose channels, in the order of the network."""
        groups = (graph.groups[number] for number in sorted(graph.index(name) for name in names))
        return tuple(group for group in groups if self.residual or not group.residual)

    def step(self, group: ChannelGroup) -> int:
        """Units of `group` between two widths that it may have."""
        return math.lcm(self.divisor, group.unit) // group.unit

    def floor(self, group: ChannelGroup) -> int:
        """The fewest units that stay; all of a group with fewer channels than `min_channels`."""
        step = self.step(group)
        return min(group.num_units, -(-group.floor(self.min_channels) // step) * step)


@dataclass(frozen=True)
class Chunk:
    """Units of one group that go at once.

    group: its position in `ChannelGraph.groups`.
    units: the least important first.
    level: chunks go in the order of their levels, by scope: the mean score of the chunk's
        channels, or the share of the group that is gone with it, in (0, 1].
    """

    group: int
    units: tuple[int, ...]
    level: float


Step = tuple[Chunk, ...]
"""Chunks that go together: one, or in "uniform" scope all of the same level."""


def removal_steps(
    scores: Mapping[str, Tensor],
    graph: ChannelGraph,
    rules: Rules,
    kept: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Step]:
    """All that can go, in the order in which it goes; ties in the order of the network.

    kept: per group, whether each unit is still there; all are by default.
    """
    chunks = [
        chunk
        for group in rules.prunable(graph, scores)
        for chunk in _chunks(
            graph.index(group.name),
            group,
            scores[group.name],
            rules,
            np.ones(group.num_units, dtype=bool) if kept is None else kept[group.name],
        )
    ]
    chunks.sort(key=attrgetter("level", "group"))  # stable: a group's own order stays
    if rules.scope == "global":
        return [(chunk,) for chunk in chunks]
    return [tuple(level) for _, level in itertools.groupby(chunks, key=attrgetter("level"))]


def _chunks(
    number: int, group: ChannelGroup, scores: Tensor, rules: Rules, kept: NDArray[np.bool_]
) -> list[Chunk]:
    """Every chunk of one group down to its floor; the first leads to a multiple of the step."""
    values = _unit_scores(group, scores, kept)
    order = np.flatnonzero(kept)
    order = order[np.argsort(values[order], kind="stable")]
    step, removable = rules.step(group), len(order) - rules.floor(group)
    ends = list(range((len(order) - 1) % step + 1, removable + 1, step))
    starts = [0, *ends[:-1]]
    if not ends:
        return []
    if rules.scope == "uniform":
        num_gone = group.num_units - len(order)
        levels = np.array([num_gone + end for end in ends]) / group.num_units
    else:
        levels = _means(values[order[: ends[-1]]], starts)
    return [
        Chunk(number, tuple(order[start:end].tolist()), float(level))
        for start, end, level in zip(starts, ends, levels, strict=True)
    ]


def _means(ascending: NDArray[np.float64], starts: list[int]) -> NDArray[np.float64]:
    """The mean of each stretch; never falls, not even by rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.add.reduceat(ascending, starts)
    means = sums / np.diff([*starts, len(ascending)])
    return np.maximum.accumulate(_infinite_wins(means))


def _unit_scores(
    group: ChannelGroup, scores: Tensor, kept: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The mean score of each unit's channels."""
    if group.pinned is not None:
        raise PlanError(f"group {group.name!r} has scores but is pinned: {group.pinned}")
    if scores.shape != (group.width,):
        raise PlanError(
            f"group {group.name!r} needs {group.width} scores, got shape {tuple(scores.shape)}"
        )
    numbers = scores.detach().to("cpu", torch.float64).numpy()
    if np.isnan(numbers[kept[group.unit_of_channel]]).any():
        raise PlanError(f"group {group.name!r} has a score that is not a number")
    return _infinite_wins(np.bincount(group.unit_of_channel, weights=numbers) / group.unit)


def _infinite_wins(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """+∞ for the mean of +∞ and −∞: who must stay keeps its companions."""
    return np.where(np.isnan(means), np.inf, means)
