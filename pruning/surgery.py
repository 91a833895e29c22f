"""Surgery: a new model with other widths; the model that is given stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.errors import PlanError
from pruning.graph.channel_graph import NO_GROUP, ChannelGraph, TensorAxis
from pruning.layer_sizes import has_size, set_size, update_sizes
from pruning.networks.copies import check_copyable, copy_of_checked
from pruning.networks.torch_interior import buffer_slots, parameter_slots
from pruning.networks.wrappers import unwrapped
from pruning.selection import KeepPlan

UnitsKept = Mapping[str, NDArray[np.bool_]]
"""Per group, whether each of its units stays: KeepPlan.units_kept."""

Positions = dict[str, list[tuple[int, Tensor]]]
"""Per tensor that shrinks, by name: its axes that do, and the positions that stay along each."""

Resize = Callable[[str, Tensor], Tensor]
"""A tensor of the old network, by name → the tensor of the new one."""


def remove_channels(model: nn.Module, graph: ChannelGraph, plan: KeepPlan) -> nn.Module:
    """A new, smaller model that keeps the channels of `plan`; `model` is untouched.

    Its output equals the output of `model` with the removed channels set to zero wherever a
    layer consumes them. Dtype, device, memory format, mode, hooks, buffers and attributes are
    kept; gradients are not.

    graph: the trace of a network with the same parameter names (layers may have been
        exchanged since, such as BatchNorm2d for SigmoidBatchNorm2d).
    Raises PlanError for a plan or a model that does not fit the graph, and ModelError for a
    model that cannot be copied.
    """
    model = unwrapped(model)
    check_copyable(model)
    positions = kept_positions(graph, plan)
    _check_tensors(model, graph, positions)
    return _without(model, graph, positions)


def without_units(model: nn.Module, graph: ChannelGraph, units_kept: UnitsKept) -> nn.Module:
    """`remove_channels` from a network that the graph was traced of: nothing is checked."""
    return _without(model, graph, _positions(graph, units_kept))


def _without(model: nn.Module, graph: ChannelGraph, positions: Positions) -> nn.Module:
    def shrink(name: str, tensor: Tensor) -> Tensor:
        if name not in positions:
            return tensor.clone()
        if tensor.is_meta:  # there is nothing to select, and the kernel takes five times as long
            sizes = {axis: len(kept) for axis, kept in positions[name]}
            shape = [sizes.get(axis, size) for axis, size in enumerate(tensor.shape)]
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
        for axis, kept in positions[name]:
            tensor = tensor.index_select(axis, kept.to(tensor.device))
        return tensor

    return _resized(model, shrink, graph)


def resized(model: nn.Module, resize: Resize, graph: ChannelGraph) -> nn.Module:
    """A copy of `model` whose parameters and buffers are what `resize` returns for them.

    Only structure is copied before resizing, so that peak memory is the two models' sizes.
    Attributes of stock layers (out_channels, num_features, groups …) follow the new shapes, and so
    do the attributes of others that the graph knows to hold a number of channels.
    """
    model = unwrapped(model)
    check_copyable(model)
    return _resized(model, resize, graph)


def _resized(model: nn.Module, resize: Resize, graph: ChannelGraph) -> nn.Module:
    memo: dict[int, object] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            new = _laid_out_like(parameter, resize(name, parameter.detach()))
            successor = nn.Parameter(new, requires_grad=parameter.requires_grad)
            successor.__dict__.update(parameter.__dict__)
            memo[id(parameter)] = successor
        for name, buffer in model.named_buffers():
            memo[id(buffer)] = _laid_out_like(buffer, resize(name, buffer.detach()))
    result = copy_of_checked(model, memo)
    for name, module in result.named_modules():
        update_sizes(module, is_group_split=f"{name}.weight" in graph.group_split)
    for size in graph.sizes:
        set_size(result, size.tensor, len(resize(size.tensor, torch.empty(len(size.groups)))))
    return result


def _laid_out_like(old: Tensor, new: Tensor) -> Tensor:
    """`new` with its axes in the order of `old` in memory (channels_last, say)."""
    strides = old.stride()
    order = sorted(range(old.dim()), key=lambda axis: -strides[axis])
    if order == list(range(old.dim())):
        return new
    result = torch.empty_permuted(new.shape, order, dtype=new.dtype, device=new.device)
    return result.copy_(new)


def kept_positions(graph: ChannelGraph, plan: KeepPlan) -> Positions:
    """Per tensor that shrinks, by name: its axes that do, and the positions that stay along each.

    PlanError if the plan does not fit the graph.
    """
    return _positions(graph, plan.units_kept(graph))


def _positions(graph: ChannelGraph, units_kept: UnitsKept) -> Positions:
    keep = [units_kept[group.name] for group in graph.groups]
    offsets = np.cumsum([0] + [len(kept) for kept in keep])
    flat = np.concatenate(keep or [np.zeros(0, bool)])
    chosen: dict[tuple[int, int], Tensor | None] = {}  # axes along the same channels share arrays
    result: Positions = {}
    for axis in (*graph.axes, *graph.sizes):
        key = id(axis.groups), id(axis.units)
        if key not in chosen:
            kept, in_group = np.ones(len(axis.groups), dtype=bool), axis.groups != NO_GROUP
            kept[in_group] = flat[offsets[axis.groups[in_group]] + axis.units[in_group]]
            chosen[key] = None if kept.all() else torch.from_numpy(np.flatnonzero(kept))
        if (positions := chosen[key]) is not None:
            result.setdefault(axis.tensor, []).append((axis.axis, positions))
    return result


def _check_tensors(model: nn.Module, graph: ChannelGraph, shrinking: Collection[str]) -> None:
    """Raise PlanError if `model` has other sizes than the graph, or lacks a tensor that shrinks."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    for name in shrinking:
        if name not in tensors and not _is_done_without(model, name):
            raise PlanError(
                f"the plan shrinks {name}, which this {type(model).__name__} does not have: "
                "trace this model again"
            )
    for axis in graph.axes:
        tensor = tensors.get(axis.tensor)
        if tensor is not None and tensor.shape[axis.axis] != len(axis.groups):
            raise PlanError(
                f"{axis.tensor} has {tensor.shape[axis.axis]} positions along axis {axis.axis}, "
                f"the graph {len(axis.groups)}: trace this model again"
            )


def _is_done_without(model: nn.Module, name: str) -> bool:
    """Whether a layer that is there goes without this tensor, such as the offset of a σBN.

    Or whether there is an attribute of this name, in which the graph knows a number of channels.
    """
    owner, _, own = name.rpartition(".")
    layer = dict(model.named_modules(remove_duplicate=False)).get(owner)
    if layer is None:
        return has_size(model, name)
    declared = parameter_slots(layer).keys() | buffer_slots(layer).keys()
    return own in declared or has_size(model, name)


def new_shape(
    axes: list[TensorAxis], shape: torch.Size, units: NDArray[np.int64], base: NDArray[np.int64]
) -> list[int]:
    """The shape of a tensor when its groups have `units` instead of `base` units."""
    size = list(shape)
    if np.array_equal(units, base):
        return size
    for axis in axes:
        in_group = axis.groups[axis.groups != NO_GROUP]
        groups, counts = np.unique(in_group, return_counts=True)
        size[axis.axis] = int(
            len(axis.groups) - len(in_group) + (counts // base[groups] * units[groups]).sum()
        )
    return size
