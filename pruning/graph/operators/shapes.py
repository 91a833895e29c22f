"""Operators that move, merge, split and choose axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import (
    Call,
    Rule,
    Tracing,
    each,
    normalized,
    pin_all,
    pin_axes,
    tie_or_pin,
    unlabelled,
)

_FIXED = "filled in part with values of a fixed size"
_STRIDED = "channels taken by every so many"
_EMPTY = 1009
"""Stands for the size of an empty axis (a prime)."""


def view(tracing: Tracing, call: Call) -> AxisLabels:
    """Merges axes (labels repeat) and splits them (labels of one axis survive).

    A split C → g×(C/g) keeps or removes the same positions in each of the g parts; whether the
    network's code agrees is found out later, by running it at other widths.
    """
    x, out = call.args[0], call.output
    before, after = _without_zeros(x.shape), _without_zeros(out.shape)
    if math.prod(before) != math.prod(after):
        pin_all(tracing, [x], "read as another type")
        return unlabelled(out)
    labels = tracing.axes(x)
    result: list[Labels | None] = [None] * out.dim()
    for in_axes, out_axes in _blocks(before, after):
        labelled = [axis for axis in in_axes if labels[axis] is not None]
        widest = max(labelled, key=before.__getitem__, default=None)
        for axis in labelled:
            if axis != widest or not out_axes:
                tracing.channels.pin(_known(labels[axis]), "a reshape mixes channel axes")
        if widest is not None and out_axes:
            merged = _merged(labels, in_axes, before, widest)
            axis, placed = _placed(tracing, call, merged, out_axes, after)
            result[axis] = placed
    return tuple(result)


def _without_zeros(shape: Sequence[int]) -> list[int]:
    """A shape with a number that nothing else has in place of 0, so that products can be told."""
    return [int(size) or _EMPTY for size in shape]


def _known(labels: Labels | None) -> Labels:
    assert labels is not None
    return labels


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes with equal products: what a reshape merges and splits."""
    i = j = 0
    while i < len(before) or j < len(after):
        in_axes, out_axes = [], []
        left = right = 1
        if i < len(before):
            in_axes.append(i)
            left, i = before[i], i + 1
        if j < len(after):
            out_axes.append(j)
            right, j = after[j], j + 1
        while left != right:
            if left < right:
                in_axes.append(i)
                left, i = left * before[i], i + 1
            else:
                out_axes.append(j)
                right, j = right * after[j], j + 1
        yield in_axes, out_axes


def _merged(labels: AxisLabels, in_axes: Sequence[int], shape: Sequence[int], axis: int) -> Labels:
    """Labels of several axes flattened into one, of which just `axis` carries channels."""
    position = list(in_axes).index(axis)
    outer = math.prod(shape[a] for a in in_axes[:position])
    inner = math.prod(shape[a] for a in in_axes[position + 1 :])
    return np.tile(np.repeat(_known(labels[axis]), inner), outer)


def _placed(
    tracing: Tracing, call: Call, labels: Labels, axes: Sequence[int], shape: Sequence[int]
) -> tuple[int, Labels]:
    """The axis, of `axes` that `labels` is split into, that goes on as channels, and its labels."""
    narrow = [axis for axis in axes if shape[axis] == 1]
    if narrow and (labels == labels[0]).all():  # a single channel
        return narrow[0], labels[:1]
    sizes = call.args[1] if isinstance(call.args[1], Sequence) else shape
    if len(axes) == 1:
        tracing.reshapes.split_axis(tuple(sizes), axes, axes[0])
        tracing.reshapes.went_on_along(labels)
        return axes[0], labels
    wide = [axis for axis in axes if shape[axis] != 1]
    cube = labels.reshape([shape[axis] for axis in wide])
    for i, axis in enumerate(wide):  # undoes a merge exactly, if it is one
        rows = np.moveaxis(cube, i, -1).reshape(-1, shape[axis])
        if (rows == rows[0]).all():
            return axis, rows[0]
    axis = tracing.reshapes.split_axis(tuple(sizes), wide, _usual_axis(call.args[0], sizes, wide))
    rows = np.moveaxis(cube, wide.index(axis), -1).reshape(-1, shape[axis])
    tied = tracing.channels.tie_rows(rows)
    tracing.reshapes.went_on_along(tied)
    return axis, tied


def _usual_axis(x: Tensor, sizes: Sequence[int], wide: Sequence[int]) -> int:
    """Which of several axes channels go on along, as far as one call tells.

    The axis whose size the network's code leaves open, as -1. Otherwise features, or channels of an
    image, that become C×height×width go on as channels (a sequence's become heads, say), and
    parts that channels are divided into keep equal positions.
    """
    free = [axis for axis in wide if sizes[axis] == -1]
    if free:
        return free[0]
    is_image = wide[0] == 1 and len(wide) > 2 and x.dim() != 3
    return wide[0] if is_image else wide[-1]


def permute(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::permute."""
    axes = tracing.axes(call.args[0])
    return tuple(axes[d] for d in call.args[1])


def transpose(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::t and aten::transpose."""
    axes = list(tracing.axes(call.args[0]))
    if len(axes) < 2:
        return tuple(axes)
    first, second = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, 1)
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def unsqueeze(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::unsqueeze."""
    axes = list(tracing.axes(call.args[0]))
    axes.insert(normalized(call.args[1], call.output.dim()), None)
    return tuple(axes)


def squeeze(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::squeeze in all its forms; a single channel that is squeezed away is pinned."""
    x = call.args[0]
    dims = call.arg(1, "dim")
    if dims is None:
        dims = range(x.dim())
    chosen = [normalized(d, x.dim()) for d in (dims if isinstance(dims, Sequence) else [dims])]
    gone = [axis for axis in chosen if x.shape[axis] == 1]
    pin_axes(tracing, x, gone, "a single channel squeezed away")
    axes = tracing.axes(x)
    return tuple(axes[axis] for axis in range(x.dim()) if axis not in gone)


def expand(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::expand; a single channel that is spread over many is pinned.

    One value without channels may be spread over channels: it follows those that it meets later.
    """
    x, out = call.args[0], call.output
    offset = out.dim() - x.dim()
    axes = tracing.axes(x)
    grown = [axis for axis in range(x.dim()) if x.shape[axis] != out.shape[axis + offset]]
    pin_axes(tracing, x, grown, "one channel broadcast over many")
    has_channels = any(labels is not None for labels in axes)
    kept = [
        (None if has_channels else tracing.channels.new(int(out.shape[axis + offset])))
        if axis in grown
        else axes[axis]
        for axis in range(x.dim())
    ]
    return (*[None] * offset, *kept)


def repeat(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::repeat: labels are tiled."""
    x, times = call.args[0], call.args[1]
    axes = tracing.axes(x)
    offset = len(times) - x.dim()
    result: list[Labels | None] = [None] * offset
    for labels, count in zip(axes, times[offset:], strict=True):
        result.append(None if labels is None else np.tile(labels, int(count)))
    return tuple(result)


def cat(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::cat: label vectors are concatenated along its axis and tied along the others."""
    ndim = call.output.dim()
    tensors = [t for t in call.args[0] if t.dim() == ndim]  # an empty vector goes with any shape
    axis = normalized(int(call.arg(1, "dim", 0)), ndim)
    result: list[Labels | None] = []
    for other in range(ndim):
        if other == axis:
            columns = [tracing.axes(t)[axis] for t in tensors]
            result.append(_concatenated(tracing, columns, [int(t.shape[axis]) for t in tensors]))
        else:
            result.append(_tied(tracing, tensors, other))
    return tuple(result)


def _concatenated(tracing: Tracing, parts: list[Labels | None], sizes: list[int]) -> Labels | None:
    if all(part is None for part in parts):
        return None
    labels = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            part = tracing.channels.new(size)  # noqa: PLW2901 - constants get atoms of their own
            tracing.channels.pin(part, "values of a fixed size, concatenated to channels")
        labels.append(part)
    return np.concatenate(labels)


def _tied(tracing: Tracing, tensors: Sequence[Tensor], axis: int) -> Labels | None:
    """The labels along an axis that several tensors have in common."""
    parts = [(tracing.axes(tensor)[axis], tensor) for tensor in tensors]
    known = [part for part, _ in parts if part is not None]
    if not known:
        return None
    for part in known[1:]:
        tracing.channels.tie(known[0], part)
    if not all(tracing.follows(t, axis, known[0]) for part, t in parts if part is None):
        tracing.channels.pin(known[0], "concatenated with values of a fixed size")
    return known[0]


def stack(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::stack: a new axis without channels; the others are tied."""
    tensors = call.args[0]
    axis = normalized(int(call.arg(1, "dim", 0)), call.output.dim())
    axes = [_tied(tracing, tensors, other) for other in range(tensors[0].dim())]
    axes.insert(axis, None)
    return tuple(axes)


def split(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::split and aten::chunk: equal parts keep the same positions; unequal ones their own.

    Whether unequal parts follow what is left of each is found out by running at other widths.
    """
    x = call.args[0]
    axis = normalized(int(call.arg(2, "dim", 0)), x.dim())
    axes = tracing.axes(x)
    labels = axes[axis]
    sizes = [int(out.shape[axis]) for out in call.outputs]
    if labels is None:
        return [axes] * len(call.outputs)
    if len(set(sizes)) > 1:
        tracing.splits_unevenly(labels)
    elif len(sizes) > 1:
        tracing.channels.tie_rows(labels.reshape(len(sizes), -1))
    parts = np.split(labels, np.cumsum(sizes)[:-1])
    return [tuple(part if a == axis else axes[a] for a in range(x.dim())) for part in parts]


def glu(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::glu: one half times the sigmoid of the other, so both keep the same positions."""
    x = call.args[0]
    axis = normalized(int(call.arg(1, "dim", -1)), x.dim())
    axes = list(tracing.axes(x))
    labels = axes[axis]
    if labels is not None:
        axes[axis] = tracing.channels.tie_rows(labels.reshape(2, -1))
    return tuple(axes)


def slicing(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::slice: one of equal parts keeps positions as the others do, another part its own.

    Every second channel, or third, is pinned: with others removed the code takes other ones.
    """
    x, out = call.args[0], call.output
    axis = normalized(int(call.arg(1, "dim", 0)), x.dim())
    axes = list(tracing.axes(x))
    labels = axes[axis]
    size, length = int(x.shape[axis]), int(out.shape[axis])
    if labels is None or length == size:
        return tuple(axes)
    start, step = int(call.arg(2, "start") or 0) % size, int(call.arg(4, "step", 1))
    if step == 1 and length and size % length == 0 and start % length == 0:
        tracing.channels.tie_rows(labels.reshape(-1, length))
    elif step == 1:
        tracing.splits_unevenly(labels)
    else:
        tracing.channels.pin(labels, _STRIDED)
    axes[axis] = labels[start : start + length * step : step]
    return tuple(axes)


def select(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::select: a channel picked by its number pins its axis."""
    x = call.args[0]
    axis = normalized(int(call.args[1]), x.dim())
    _take_apart(tracing, x, axis, "a channel picked by its number")
    axes = tracing.axes(x)
    return (*axes[:axis], *axes[axis + 1 :])


def unbind(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::unbind: its axis goes, pinned if it carries channels."""
    x = call.args[0]
    axis = normalized(int(call.arg(1, "dim", 0)), x.dim())
    _take_apart(tracing, x, axis, "channels taken apart one by one")
    axes = tracing.axes(x)
    return [(*axes[:axis], *axes[axis + 1 :])] * len(call.outputs)


def _take_apart(tracing: Tracing, x: Tensor, axis: int, reason: str) -> None:
    labels = tracing.axes(x)[axis]
    if labels is not None:
        tracing.reshapes.takes_apart(labels)
        tracing.channels.pin(labels, reason)


def index(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::index with adjacent index tensors: other axes keep their labels."""
    x, indices = call.args[0], call.args[1]
    used = [axis for axis, chosen in enumerate(indices) if chosen is not None]
    pin_all(tracing, [i for i in indices if i is not None], "used as an index")
    axes = tracing.axes(x)
    if used != list(range(used[0], used[-1] + 1)):
        pin_all(tracing, [x], "indexed along several separate axes")
        return unlabelled(call.output)
    pin_axes(tracing, x, used, "channels chosen by an index")
    tail = axes[used[-1] + 1 :]
    num_new = call.output.dim() - used[0] - len(tail)
    return (*axes[: used[0]], *[None] * num_new, *tail)


def index_put(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::index_put, aten::index_put_: values are tied to what they are put into.

    What they are put into takes over their channels where it had none, such as zeros.
    """
    x, indices, values = call.args[0], call.args[1], call.args[2]
    used = [axis for axis, chosen in enumerate(indices) if chosen is not None]
    pin_all(tracing, [i for i in indices if i is not None], "used as an index")
    pin_axes(tracing, x, used, "channels chosen by an index")
    axes: list[Labels | None] = [None if a in used else n for a, n in enumerate(tracing.axes(x))]
    tail = x.dim() - 1 - used[-1]
    for behind in range(1, 1 + min(tail, values.dim())):
        if values.shape[-behind] == x.shape[-behind]:
            known, new = axes[-behind], tracing.axes(values)[-behind]
            if known is not None or new is not None:
                axes[-behind] = new if known is None else tie_or_pin(tracing, known, new, _FIXED)
    pin_axes(tracing, values, range(values.dim() - min(tail, values.dim())), "put at an index")
    return tuple(axes)


def pad(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::constant_pad_nd: channels padded behind the last one stay where they are.

    Whether the code finds out itself how many are missing shows when it runs at other widths.
    Channels padded in front, or cropped, are pinned: kept ones would move.
    """
    x, amounts = call.args[0], call.args[1]
    axes = list(tracing.axes(x))
    for i in range(len(amounts) // 2):
        axis, before, after = x.dim() - 1 - i, int(amounts[2 * i]), int(amounts[2 * i + 1])
        labels = axes[axis]
        if labels is None or (before, after) == (0, 0):
            continue
        if before == 0 and after > 0:
            axes[axis] = np.concatenate([labels, tracing.channels.new(after)])
        else:
            tracing.channels.pin(labels, "zero-padded in front of the channels, or cropped")
            axes[axis] = None
    return tuple(axes)


def index_select(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::index_select: channels chosen by number are pinned."""
    x = call.args[0]
    axis = normalized(int(call.args[1]), x.dim())
    pin_axes(tracing, x, [axis], "channels chosen by an index")
    axes = tracing.axes(x)
    return tuple(None if a == axis else axes[a] for a in range(x.dim()))


def reads(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Operators that return what they find in values: aten::nonzero, torchvision::nms …"""
    pin_all(tracing, call.tensors, "read as values that decide what the network does")
    return [unlabelled(output) for output in call.outputs]


def as_strided(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::as_strided, aten::as_strided_: followed where all memory is read in the same order.

    Average pooling over all positions ends so where its input has its channels last.
    """
    x, out = call.args[0], call.output
    axes = tracing.axes(x)
    is_same = [int(n) if a is None else len(a) for n, a in zip(x.shape, axes, strict=True)]
    num_stored = x.untyped_storage().nbytes() // x.element_size()
    if is_same == list(out.shape) and _is_in_order(x, num_stored) and _is_in_order(out, num_stored):
        return axes
    pin_all(tracing, [x], "memory read with other strides")
    return unlabelled(out)


def _is_in_order(x: Tensor, num_stored: int) -> bool:
    """Whether a tensor has all of its memory, its last axis moving fastest."""
    step = 1
    for size, stride in reversed(list(zip(x.shape, x.stride(), strict=True))):
        if size != 1 and stride != step:
            return False
        step *= size
    return step == num_stored


RULES: dict[str, Rule] = {
    **each("view _unsafe_view reshape _reshape_alias flatten unflatten", view),
    **each("permute", permute),
    **each("t transpose", transpose),
    **each("unsqueeze", unsqueeze),
    **each("squeeze", squeeze),
    **each("expand", expand),
    **each("repeat", repeat),
    **each("cat", cat),
    **each("stack", stack),
    **each("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes unsafe_chunk", split),
    **each("glu", glu),
    **each("slice", slicing),
    **each("select", select),
    **each("unbind", unbind),
    **each("index _unsafe_index", index),
    **each("index_put index_put_", index_put),
    **each("nonzero masked_select _unique2 unique_dim unique_consecutive bincount", reads),
    **each("_local_scalar_dense equal repeat_interleave", reads),
    "torchvision::nms": reads,
    **each("index_select", index_select),
    **each("constant_pad_nd", pad),
    **each("as_strided as_strided_", as_strided),
}
