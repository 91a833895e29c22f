"""The topology of a network at other widths, with fresh weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from copycat.width_profile import WidthProfile
from pruning.blocks import remove_blocks
from pruning.channel_graph import ChannelGraph, TensorAxis
from pruning.cost import ExampleInput
from pruning.surgery import Resize, new_shape, resized
from pruning.tracing import trace


def build(
    model: nn.Module,
    profile: WidthProfile,
    example_input: ExampleInput,
    seed: int = 0,
    *,
    graph: ChannelGraph | None = None,
) -> nn.Module:
    """The topology of `model` at the widths of `profile`, with fresh weights drawn from `seed`.

    Widths may be larger than the traced ones. Weights come from the network's own
    `reset_parameters()` if it has one, otherwise from that of each of its layers.
    graph: the trace of `model`, if it is at hand; not used for a profile that removes blocks,
    since those are removed first. Raises PlanError for widths or blocks that are forbidden.
    """
    if profile.removed_blocks:
        model, graph = remove_blocks(model, profile.removed_blocks), None
    graph = graph if graph is not None else trace(model, example_input)
    result = resized(model, _resizer(graph, profile, fill=True), graph)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.default_generator.manual_seed(seed)
        _reset(result.cpu())
    return result.to(device)


def shaped(model: nn.Module, profile: WidthProfile, graph: ChannelGraph) -> nn.Module:
    """The topology of `model` at these widths with empty weights, to be loaded from a file."""
    return resized(model, _resizer(graph, profile, fill=False), graph)


def _resizer(graph: ChannelGraph, profile: WidthProfile, *, fill: bool) -> Resize:
    units = np.array([group.num_units for group in graph.groups], dtype=np.int64)
    base = units.copy()
    for name, width in profile.widths.items():
        units[graph.index(name)] = graph.units_at(name, width)
    axes: dict[str, list[TensorAxis]] = {}
    for axis in graph.axes:
        axes.setdefault(axis.tensor, []).append(axis)

    def resize(name: str, tensor: Tensor) -> Tensor:
        shape = new_shape(axes.get(name, []), tensor.shape, units, base)
        if list(tensor.shape) == shape:
            return tensor.clone()
        # A bare parameter that no layer resets starts at the mean of the base network's.
        value = float(tensor.float().mean()) if fill and tensor.is_floating_point() else 0.0
        return tensor.new_full(shape, value)

    return resize


def _reset(model: nn.Module) -> None:
    own = getattr(model, "reset_parameters", None)
    if callable(own):
        own()
        return
    # Inner modules first: a block's own scheme has the last word over that of its layers.
    # nn.MultiheadAttention and nn.Transformer have it under the second name.
    for module in reversed(list(model.modules())):
        for name in ("reset_parameters", "_reset_parameters"):
            reset = getattr(module, name, None)
            if callable(reset):
                reset()
