"""The topology of a network at other widths, with fresh weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from copycat.recipes import Recipe, draw, surely_drawn
from copycat.width_profile import WidthProfile
from pruning.cost import ExampleInput
from pruning.graph.channel_graph import ChannelGraph, TensorAxis
from pruning.rules import Offered
from pruning.structure_removal.structures import remove_structures
from pruning.surgery import Resize, new_shape, resized
from pruning.tracing import whole_trace


def build(
    model: nn.Module,
    profile: WidthProfile,
    example_input: ExampleInput,
    seed: int = 0,
    *,
    graph: ChannelGraph | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """The topology of `model` at the widths of `profile`, with fresh weights drawn from `seed`.

    Widths may be larger than the traced ones. Weights come from the network's own
    `reset_parameters()` if it has one, otherwise from its constructor's `recipe` (see
    copycat.recorded), otherwise from each layer's `reset_parameters()`; bare parameters are
    drawn from a normal distribution like the base network's. The attribute `weight_sources` of
    the result says which it was, by parameter.
    graph: the trace of `model`, if it is at hand; not used for a profile that removes
    structures, since those are removed first. Without it widths may be any that keep shapes
    consistent: what cannot be removed exactly can be built. Raises PlanError for widths or
    structures that are forbidden.
    """
    if profile.removed:
        model, graph = without_removed(model, profile, example_input), None
    graph = graph if graph is not None else graph_for(model, profile, example_input)
    result = resized(model, _resizer(graph, profile, surely_drawn(model, recipe)), graph)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.default_generator.manual_seed(seed)
        sources = draw(result if device.type == "cpu" else result.cpu(), model, recipe)
    result.__dict__["weight_sources"] = sources  # a note: neither parameter nor submodule
    return result if device.type == "cpu" else result.to(device)


def without_removed(
    model: nn.Module, profile: WidthProfile, example_input: ExampleInput
) -> nn.Module:
    """`model` without the structures that `profile` removes; `model` itself if there are none."""
    if not profile.removed:
        return model
    return remove_structures(model, example_input, profile.removed)


def graph_for(model: nn.Module, profile: WidthProfile, example_input: ExampleInput) -> ChannelGraph:
    """The trace of `model`, without what `profile` removes, in which it can have these widths.

    Weights are not kept, so removal need not be exact; an exact trace has the same groups under
    the same names, and is made in less time. It has no limit in time: see `whole_trace`.
    """
    offered = Offered(whole_heads=profile.has_whole_heads)
    graph = whole_trace(model, example_input, offered)
    if profile.fits(graph):
        return graph
    return whole_trace(model, example_input, replace(offered, exact=False))


def shaped(model: nn.Module, profile: WidthProfile, graph: ChannelGraph) -> nn.Module:
    """The topology of `model` at these widths with empty weights, to be loaded from a file."""
    return resized(model, _resizer(graph, profile), graph)


def _resizer(
    graph: ChannelGraph, profile: WidthProfile, left_empty: Collection[str] = ()
) -> Resize:
    """What gives tensors the sizes of `profile`: as they are where they keep theirs, or zeros.

    left_empty: names of those that somebody else fills: copying 100 MB takes as long as drawing
        a third of them.
    """
    units = np.array([group.num_units for group in graph.groups], dtype=np.int64)
    base = units.copy()
    for name, width in profile.widths.items():
        units[graph.index(name)] = graph.units_at(name, width)
    axes: dict[str, list[TensorAxis]] = {}
    for axis in (*graph.axes, *graph.sizes):
        axes.setdefault(axis.tensor, []).append(axis)

    def resize(name: str, tensor: Tensor) -> Tensor:
        shape = new_shape(axes.get(name, []), tensor.shape, units, base)
        if name in left_empty:
            return tensor.new_empty(shape)
        if list(tensor.shape) == shape:
            return tensor.clone()
        return tensor.new_zeros(shape)

    return resize
