"""Operators that sum over channels: convolutions, linear layers and matrix products.

They consume the labels of their input axis and bring new ones on their output axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import (
    Call,
    Rule,
    Size,
    Tracing,
    each,
    mix_axes,
    pin_all,
    pin_axes,
    size_of,
    tie_each,
    tie_or_pin,
    unlabelled,
)

NOT_CHANNELS = "its input channels are fixed (the network's input, or values without channels)"


def convolution(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::convolution in 1, 2 or 3 dimensions, grouped and transposed or not."""
    x, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    channel_axis = x.dim() - weight.dim() + 1  # 0 without a batch axis
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    along = _convolved_along(tracing, call, channel_axis)
    inputs = tracing.axes(x)[channel_axis]
    weights = tracing.axes(weight)
    if groups == 1 and not tracing.loses_whole_groups(weight):
        produced = _dense(tracing, weight, inputs, weights[in_axis], weights[out_axis])
    else:
        produced = _grouped(tracing, weight, inputs, groups, transposed)
    if bias is not None and produced is not None:
        tie_each(tracing, produced, bias, "the bias has no channels")
    _count_convolution(tracing, call, x if transposed else call.output)
    return (*along[:channel_axis], produced, *along[channel_axis + 1 :])


def _convolved_along(tracing: Tracing, call: Call, channel_axis: int) -> AxisLabels:
    """The labels of the output along the axes that a convolution runs over.

    Channels there, as in an attention over channels by a small kernel (ECA), are mixed; they stay
    where they are if none is lost at the ends.
    """
    x, out = call.args[0], call.output
    axes = tracing.axes(x)
    over = range(channel_axis + 1, x.dim())
    mix_axes(tracing, x, over, "convolved over")
    changed = [axis for axis in over if x.shape[axis] != out.shape[axis]]
    pin_axes(tracing, x, [*range(channel_axis), *changed], "convolved over")
    return tuple(axes[a] if a in over and a not in changed else None for a in range(x.dim()))


def _dense(
    tracing: Tracing,
    weight: Tensor,
    inputs: Labels | None,
    consumed: Labels | None,
    produced: Labels | None,
) -> Labels | None:
    tie_or_pin(tracing, inputs, consumed, NOT_CHANNELS)
    if consumed is not None:
        _consumed(tracing, weight, inputs, consumed)
    if produced is not None:
        tracing.produces(produced)
    return produced


def _consumed(tracing: Tracing, weight: Tensor, inputs: Labels | None, consumed: Labels) -> None:
    """Note where channels end: in a weight, or in a kernel that was computed."""
    if tracing.is_stored(weight):
        tracing.consumes(consumed)
    elif inputs is not None:
        tracing.contracts(inputs)


def _grouped(
    tracing: Tracing, weight: Tensor, inputs: Labels | None, groups: int, transposed: bool
) -> Labels | None:
    """A grouped convolution loses whole groups, or the same channels of every group.

    Whole groups where there are more groups than channels in one (depthwise is the extreme),
    otherwise evenly: whichever leaves the finer choice. What a network has lost already decides
    for it, since either way the numbers change that would decide now.
    """
    channels = tracing.channels
    first, second = tracing.axes(weight)[:2]
    if inputs is None or first is None or second is None:
        if transposed:
            produced = None if second is None else np.tile(second, groups)
            return _grouped_with_fixed_inputs(tracing, (inputs, first), produced, groups)
        return _grouped_with_fixed_inputs(tracing, (inputs, second), first, groups)
    per_group_in = len(inputs) // groups
    per_group_out = len(second) if transposed else len(first) // groups
    whole_groups = tracing.loses_whole_groups(weight)
    if whole_groups is None:
        whole_groups = groups >= max(per_group_in, per_group_out)
    if whole_groups:
        tracing.splits_groups(weight)
    in_matrix = inputs.reshape(groups, per_group_in)
    if transposed:
        channels.tie(inputs, first)
        return _grouped_transposed(tracing, weight, in_matrix, whole_groups=whole_groups)
    tracing.produces(first)
    out_matrix = first.reshape(groups, per_group_out)
    if whole_groups:
        channels.pin(second, "a slice within one group of a grouped convolution")
        _tie_units(tracing, in_matrix, out_matrix)
        return first
    channels.tie(channels.tie_rows(in_matrix), second)
    _consumed(tracing, weight, inputs, second)
    channels.tie_rows(out_matrix)
    return first


def _grouped_with_fixed_inputs(
    tracing: Tracing, fixed: Sequence[Labels | None], produced: Labels | None, groups: int
) -> Labels | None:
    """Every group loses the same ones of its filters, if it has several.

    fixed: the input channels, of the activation and of the weight.  produced: of all groups.
    """
    for labels in fixed:
        if labels is not None:
            tracing.channels.pin(labels, NOT_CHANNELS)
    if produced is None:
        return None
    if len(produced) == groups:
        tracing.channels.pin(produced, NOT_CHANNELS)
        return None
    tracing.channels.tie_rows(produced.reshape(groups, -1))
    tracing.produces(produced)
    return produced


def _grouped_transposed(
    tracing: Tracing, weight: Tensor, inputs: Labels, *, whole_groups: bool
) -> Labels:
    channels, (first, second) = tracing.channels, tracing.axes(weight)[:2]
    assert first is not None, weight.shape
    assert second is not None, weight.shape
    if whole_groups:
        channels.pin(second, "a slice within one group of a grouped convolution")
        produced = channels.new(len(inputs) * len(second))
        _tie_units(tracing, inputs, produced.reshape(len(inputs), -1))
        return produced
    channels.tie_rows(inputs)
    _consumed(tracing, weight, inputs.reshape(-1), first)
    produced = np.tile(second, len(inputs))
    tracing.produces(produced)
    return produced


def _tie_units(tracing: Tracing, inputs: Labels, outputs: Labels) -> None:
    """Tie all channels, in and out, of each group of a grouped convolution."""
    anchor = tracing.channels.tie_rows(outputs.T)
    tracing.channels.tie(anchor, tracing.channels.tie_rows(inputs.T))


def _count_convolution(tracing: Tracing, call: Call, spatial: Tensor) -> None:
    """fvcore: batch × Π(weight shape) × Π(output extent; input extent when transposed)."""
    tracing.costs.count(1, *_convolution_sizes(tracing, call, spatial))


def _convolution_sizes(tracing: Tracing, call: Call, spatial: Tensor) -> list[Size]:
    x, weight = call.args[:2]
    batch = x.shape[0] if x.dim() == weight.dim() else 1
    extents = [  # channels that are convolved over stay where they are
        size_of(x, axis, tracing) if x.shape[axis] == spatial.shape[axis] else spatial.shape[axis]
        for axis in range(2 - weight.dim(), 0)
    ]
    positions = int(batch) * math.prod(weight.shape[2:])
    return [positions, *extents, size_of(weight, 0, tracing), size_of(weight, 1, tracing)]


def deformable_convolution(tracing: Tracing, call: Call) -> AxisLabels:
    """torchvision::deform_conv2d: a convolution at positions that are moved by offsets.

    fvcore does not count it; as a convolution it would be counted alike.
    """
    x, weight, offset, mask, bias = call.args[:5]
    groups = int(call.args[11])
    pin_all(tracing, [offset, mask], "used as positions")
    pin_axes(tracing, x, (0, 2, 3), "convolved over")
    weights = tracing.axes(weight)
    if groups == 1:
        produced = _dense(tracing, weight, tracing.axes(x)[1], weights[1], weights[0])
    else:
        produced = _grouped(tracing, weight, tracing.axes(x)[1], groups, transposed=False)
    if produced is not None:
        tie_each(tracing, produced, bias, "the bias has no channels")
    tracing.costs.leave_out(*_convolution_sizes(tracing, call, call.output))
    return (None, produced, None, None)


def matrix_product(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::mm and aten::bmm: …×n×m times …×m×p, summed over m."""
    return _product(tracing, call.args[0], call.args[1])


def added_matrix_product(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::addmm and aten::baddbmm: a bias plus a matrix product; fvcore counts no baddbmm."""
    bias, first, second = call.args[:3]
    axes = _product(tracing, first, second, is_counted=call.name != "aten::baddbmm")
    for axis in range(bias.dim()):
        out_axis = axis + len(axes) - bias.dim()
        if bias.shape[axis] == call.output.shape[out_axis]:
            tie_each(tracing, axes[out_axis], bias, "the bias has no channels", axis=axis)
    return axes


def _product(
    tracing: Tracing, first: Tensor, second: Tensor, *, is_counted: bool = True
) -> AxisLabels:
    left, right = tracing.axes(first), tracing.axes(second)
    tie_or_pin(tracing, left[-1], right[-2], NOT_CHANNELS)
    for tensor, produced in ((first, left[-2]), (second, right[-1])):
        if tracing.is_parameter(tensor) and produced is not None:
            tracing.produces(produced)
    _met(tracing, (first, left[-1]), (second, right[-2]))
    batch = left[0] if first.dim() == 3 else None
    if first.dim() == 3:
        batch = tie_or_pin(tracing, left[0], right[0], "a batch axis of a product")
    sizes = [size_of(first, axis, tracing) for axis in range(first.dim())]
    sizes.append(size_of(second, -1, tracing))
    if is_counted:
        tracing.costs.count(1, *sizes)
    else:
        tracing.costs.leave_out(*sizes)
    kept: tuple[Any, ...] = (batch,) if first.dim() == 3 else ()
    return (*kept, left[-2], right[-1])


def _met(tracing: Tracing, *operands: tuple[Tensor, Labels | None]) -> None:
    """Note where channels end that two tensors share, by which their product sums: in one of them.

    That is a weight, if one is, or else an activation.
    """
    are_weights = all(tracing.is_parameter(tensor) for tensor, _ in operands)
    for tensor, labels in operands:
        if labels is not None and (are_weights or tracing.is_stored(tensor)):
            tracing.consumes(labels)
            return
    labels = operands[0][1]
    if labels is not None:
        tracing.contracts(labels)


def matrix_vector(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::mv: n×m times m, summed over m; fvcore counts it as a whole `matmul` only."""
    return _vector_product(tracing, call.args[0], call.args[1])


def added_matrix_vector(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::addmv: a bias plus a matrix times a vector, which fvcore does not count."""
    bias, matrix, vector = call.args[:3]
    axes = _vector_product(tracing, matrix, vector)
    if bias.shape == call.output.shape:
        tie_each(tracing, axes[0], bias, "the bias has no channels")
    return axes


def dot(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::dot, aten::vdot: a sum over all channels of two vectors, as in `matrix_vector`."""
    return _vector_product(tracing, call.args[0], call.args[1])


def _vector_product(tracing: Tracing, first: Tensor, vector: Tensor) -> AxisLabels:
    """…×m times m."""
    left, right = tracing.axes(first), tracing.axes(vector)
    tie_or_pin(tracing, left[-1], right[0], NOT_CHANNELS)
    _met(tracing, (first, left[-1]), (vector, right[0]))
    if tracing.is_parameter(first) and first.dim() > 1 and left[0] is not None:
        tracing.produces(left[0])
    tracing.costs.leave_out(*(size_of(first, axis, tracing) for axis in range(first.dim())))
    return left[:-1]


def bilinear(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::_trilinear as nn.Bilinear calls it: n×i and n×j by a weight o×i×j to n×o.

    fvcore does not count it.
    """
    first, weight, second = call.args[:3]
    if call.args[3:7] != ([1, 3], [0], [1, 2], [2, 3]):
        pin_all(tracing, call.tensors, "a product of three tensors")
        return unlabelled(call.output)
    produced, *consumed = tracing.axes(weight)
    for tensor, labels in zip((first, second), consumed, strict=True):
        tie_or_pin(tracing, tracing.axes(tensor)[1], labels, NOT_CHANNELS)
        if labels is not None:
            tracing.consumes(labels)
    if produced is not None:
        tracing.produces(produced)
    positions = int(first.shape[0])
    tracing.costs.leave_out(positions, *(size_of(weight, axis, tracing) for axis in range(3)))
    return (tracing.axes(first)[0], produced)


def embedding(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::embedding: rows of a table, whose columns are channels; fvcore counts nothing."""
    table, chosen = call.args[:2]
    pin_all(tracing, [chosen], "used as an index")
    pin_axes(tracing, table, [0], "rows chosen by an index")
    channels = tracing.axes(table)[1]
    if channels is not None:
        tracing.produces(channels)
    return (*[None] * chosen.dim(), channels)


def embedding_bag(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_embedding_bag: sums, means or maxima of rows of a table, as in `embedding`."""
    table = call.args[0]
    pin_all(tracing, call.tensors[1:], "used as an index")
    pin_axes(tracing, table, [0], "rows chosen by an index")
    channels = tracing.axes(table)[1]
    if channels is not None:
        tracing.produces(channels)
    axes = (None, channels)
    return [axes if o.shape == call.output.shape else unlabelled(o) for o in call.outputs]


RULES: dict[str, Rule] = {
    **each("convolution", convolution),
    **each("mm bmm", matrix_product),
    **each("addmm baddbmm", added_matrix_product),
    **each("mv", matrix_vector),
    **each("addmv", added_matrix_vector),
    **each("dot vdot", dot),
    **each("_trilinear", bilinear),
    **each("embedding", embedding),
    **each("_embedding_bag _embedding_bag_forward_only", embedding_bag),
    "torchvision::deform_conv2d": deformable_convolution,
}
