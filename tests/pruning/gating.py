"""What surgery is compared with: the full network, with removed channels zero where consumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import ChannelGraph, ChannelGroup, KeepPlan


@st.composite
def plans(draw: Callable[..., Any], graph: ChannelGraph) -> KeepPlan:
    """Any plan: at least one unit of every prunable group, and often all."""
    keep = {}
    for group in graph.prunable:
        units = draw(st.sets(st.integers(0, group.num_units - 1), min_size=1))
        keep[group.name] = channels_of(group, units)
    return KeepPlan(keep)


def random_plan(graph: ChannelGraph, seed: int, keep_fraction: float = 0.6) -> KeepPlan:
    """Each unit stays with this probability, the first of each group always."""
    random = np.random.default_rng(seed)
    keep = {}
    for group in graph.prunable:
        stays = random.random(group.num_units) < keep_fraction
        keep[group.name] = channels_of(group, {0, *np.flatnonzero(stays).tolist()})
    return KeepPlan(keep)


def channels_of(group: ChannelGroup, units: Iterable[int]) -> tuple[int, ...]:
    """The channels of these units, sorted."""
    return tuple(np.flatnonzero(np.isin(group.unit_of_channel, list(units))).tolist())


def removed_units(graph: ChannelGraph, plan: KeepPlan) -> list[set[int]]:
    """Per group of `graph`, the units that `plan` removes."""
    removed = []
    for group in graph.groups:
        kept = plan.keep.get(group.name, tuple(range(group.width)))
        removed.append(set(range(group.num_units)) - set(group.unit_of_channel[list(kept)]))
    return removed


def gated(model: nn.Module, graph: ChannelGraph, plan: KeepPlan) -> nn.Module:
    """A copy of `model` that multiplies removed channels by zero wherever it consumes them.

    Weights lose the columns of removed channels. A channel that meets another activation in a
    matrix product is zero there if its producers make it zero.
    """
    result = copy.deepcopy(model)
    tensors = dict(result.named_parameters())
    removed = removed_units(graph, plan)
    consumed = {number for axis in graph.axes if axis.is_input for number in axis.groups.tolist()}
    consumed -= {number for product in graph.products for number in product.groups.tolist()}
    with torch.no_grad():
        for axis in graph.axes:
            gone = [
                position
                for position, (number, unit) in enumerate(zip(axis.groups, axis.units, strict=True))
                if number >= 0 and unit in removed[number] and axis.is_input == (number in consumed)
            ]
            if gone:
                tensors[axis.tensor].index_fill_(axis.axis, torch.tensor(gone), 0)
    return result


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor of a network's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in tensors_of(part)]


def difference(first: Any, second: Any) -> float:
    """The largest difference of two outputs, relative to the largest value of the second."""
    worst = 0.0
    for one, other in zip(tensors_of(first), tensors_of(second), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert torch.isfinite(other).all()
        scale = other.detach().abs().max().clamp(min=1e-30)
        worst = max(worst, float((one - other).detach().abs().max() / scale))
    return worst
