"""The order in which channels go: by score or evenly, chunk by chunk, down to a floor."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.errors import PlanError
from pruning.graph.channel_graph import ChannelGraph, ChannelGroup
from pruning.rules import Rules
from pruning.unit_costs import relative_savings

_ROUNDS = 256
"""How often at least, from the first to the last unit that can go, savings are worked out anew."""


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
    quantities: Sequence[str] = ("flops",),
) -> Iterator[Step]:
    """All that can go, in the order in which it goes; ties in the order of the network.

    kept: per group, whether each unit is still there; all are by default.
    quantities: by which `cost_exponent` of the rules weighs scores.
    """
    present = {
        group.name: np.ones(group.num_units, dtype=bool) if kept is None else kept[group.name]
        for group in rules.prunable(graph, scores)
    }
    chunks = [
        chunk
        for name, units in present.items()
        for chunk in _chunks(graph.index(name), graph.group(name), scores[name], rules, units)
    ]
    if rules.cost_exponent:
        widths = {n: graph.group(n).unit * int(units.sum()) for n, units in present.items()}
        return _by_score_and_cost(chunks, graph, widths, rules.cost_exponent, quantities)
    chunks.sort(key=attrgetter("level", "group"))  # stable: a group's own order stays
    if rules.scope == "global":
        return ((chunk,) for chunk in chunks)
    return (tuple(level) for _, level in itertools.groupby(chunks, key=attrgetter("level")))


def _by_score_and_cost(
    chunks: Sequence[Chunk],
    graph: ChannelGraph,
    widths: Mapping[str, int],
    exponent: float,
    quantities: Sequence[str],
) -> Iterator[Step]:
    """First what has the least score per what it saves, which is worked out as widths shrink.

    widths: of the groups that may lose channels.
    """
    left = dict(widths)
    waiting: dict[int, deque[Chunk]] = {}
    for chunk in chunks:
        waiting.setdefault(chunk.group, deque()).append(chunk)
    per_round = max(1, sum(len(chunk.units) for chunk in chunks) // _ROUNDS)
    while waiting:
        names = [graph.groups[number].name for number in waiting]
        savings = relative_savings(graph, names, quantities, left)
        ranked = [_weighed(queue[0], savings, graph, exponent) for queue in waiting.values()]
        heapq.heapify(ranked)
        gone = 0
        while ranked and gone < per_round:
            *_, number = heapq.heappop(ranked)
            chunk = waiting[number].popleft()
            gone += len(chunk.units)
            left[graph.groups[number].name] -= len(chunk.units) * graph.groups[number].unit
            yield (chunk,)
            if waiting[number]:
                heapq.heappush(ranked, _weighed(waiting[number][0], savings, graph, exponent))
            else:
                del waiting[number]


def _weighed(
    chunk: Chunk, savings: Mapping[str, float], graph: ChannelGraph, exponent: float
) -> tuple[float, float, int]:
    """What chunks are ranked by: the level per saving to this power, the level, the group.

    Below zero, where a greater saving has to make the level lower, it is multiplied.
    """
    saved = savings.get(graph.groups[chunk.group].name, 0.0)
    if chunk.level < 0:
        return chunk.level * saved**exponent, chunk.level, chunk.group
    weighed = chunk.level / saved**exponent if saved > 0 else np.inf
    return weighed, chunk.level, chunk.group


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
