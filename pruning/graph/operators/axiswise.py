"""Operators that work along some axes and treat every position of the others alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels
from pruning.graph.operators.elementwise import tie_axis
from pruning.graph.operators.rule import Call, Rule, Tracing, each, mix_axes, normalized, pin_axes

AxisRule = Callable[[Tracing, Tensor, Sequence[int], str], None]

_REDUCED = "reduced over all channels"
_MOVED = "channels moved along their axis"
_COMBINED = "channels combined along their axis"


def _along(position: int, reason: str, *, default: Any = None, limit: AxisRule = pin_axes) -> Rule:
    """Rule of an operator along the axes in its argument `dim` or `dims`; those are pinned.

    The output has them still, without channels, or not any more; new ones come last.
    position: of the argument; default: where it is missing, None for all axes.
    limit: what becomes of the axes: `mix_axes` where only values depend on how many there are.
    """

    def rule(tracing: Tracing, call: Call) -> list[AxisLabels]:
        x = call.args[0]
        dims = call.arg(position, "dim", call.kwargs.get("dims", default))
        along = _normalized_all(dims, x)
        limit(tracing, x, along, reason)
        axes = tracing.axes(x)
        same = tuple(None if axis in along else axes[axis] for axis in range(x.dim()))
        if call.output.dim() < x.dim():
            same = tuple(axes[axis] for axis in range(x.dim()) if axis not in along)
        return [(*same, *[None] * (out.dim() - len(same))) for out in call.outputs]

    return rule


def _normalized_all(dims: Any, x: Tensor) -> Sequence[int]:
    if dims is None or isinstance(dims, bool) or (isinstance(dims, Sequence) and not dims):
        return range(x.dim())
    return [normalized(int(d), x.dim()) for d in (dims if isinstance(dims, Sequence) else [dims])]


def triangle(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::tril and aten::triu: what is zero depends on the position along the last two axes."""
    x = call.args[0]
    pin_axes(tracing, x, (-2, -1), "zero beyond a diagonal")
    return (*tracing.axes(x)[:-2], None, None)


def gather(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::gather: values and indices are tied along all axes but the one gathered from."""
    x, index = call.args[0], call.args[2]
    along = normalized(int(call.args[1]), x.dim())
    for tensor in (x, index):
        pin_axes(tracing, tensor, [along], "channels chosen by an index")
    return tuple(
        None if axis == along else tie_axis(tracing, [x, index], axis, call.output)
        for axis in range(call.output.dim())
    )


def to_pairs(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::view_as_real: a last axis of real and imaginary part."""
    return (*tracing.axes(call.args[0]), None)


def from_pairs(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::view_as_complex."""
    pin_axes(tracing, call.args[0], [-1], "channels read as complex numbers")
    return tracing.axes(call.args[0])[:-1]


RULES: dict[str, Rule] = {
    **each(
        "mean sum amax amin aminmax _aminmax max min var std var_mean std_mean prod any all "
        "logsumexp median nanmedian nansum count_nonzero",
        _along(1, _REDUCED, limit=mix_axes),
    ),
    **each("argmax argmin", _along(1, "channels are found by their number")),
    **each("linalg_vector_norm norm", _along(2, _REDUCED, limit=mix_axes)),
    **each("kthvalue", _along(2, _REDUCED, default=-1, limit=mix_axes)),
    **each("mode", _along(1, _REDUCED, default=-1, limit=mix_axes)),
    **each("cumsum cumprod logcumsumexp cummax cummin", _along(1, _COMBINED)),
    **each("_fft_r2c _fft_c2r _fft_c2c", _along(1, _COMBINED)),
    **each("sort", _along(1, _MOVED, default=-1)),
    **each("topk", _along(2, _MOVED, default=-1)),
    **each("flip unfold", _along(1, _MOVED)),
    **each("roll rot90", _along(2, _MOVED)),
    **each("tril triu", triangle),
    **each("gather", gather),
    **each("view_as_real", to_pairs),
    **each("view_as_complex", from_pairs),
}
