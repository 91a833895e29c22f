"""Fake quantisation: values rounded as if they were stored in few bits, while a network learns.

A removed channel is zero, which quantisation keeps. Where the range of values is observed on the
way, it is that of all channels together, or that of each along one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels
from pruning.graph.operators.rule import (
    Call,
    Tracing,
    each,
    mix_axes,
    normalized,
    tie_each,
    unlabelled,
)

_SCALED = "quantised by values of a fixed size"
_RANGED = "quantised by the range of all of these channels"


def per_tensor(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """One scale and one zero point for all channels: values, and which of them were in range."""
    return [tracing.axes(call.args[0])] * len(call.outputs)


def per_channel(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """A scale and a zero point for each channel along the axis that is the argument after them."""
    _along(tracing, call.args[0], int(call.args[3]), call.args[1:3])
    return per_tensor(tracing, call)


def observed(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_fused_moving_avg_obs_fq_helper: the range of values decides the scale.

    The least and the largest value, the scale and the zero point are per channel, or one each;
    before the first run they are empty.
    """
    x, axis = call.args[0], int(call.args[10])
    is_per_channel = bool(call.arg(11, "per_row_fake_quant", default=False))
    over: Sequence[int] = range(x.dim())
    if is_per_channel:
        over = [other for other in over if other != normalized(axis, x.dim())]
        _along(tracing, x, axis, call.args[3:7])
    mix_axes(tracing, x, over, _RANGED)
    axes = tracing.axes(x)
    return [axes if out.shape == x.shape else unlabelled(out) for out in call.outputs]


def _along(tracing: Tracing, x: Tensor, axis: int, vectors: Sequence[Any]) -> None:
    for vector in vectors:
        if vector.shape == x.shape[axis : axis + 1]:
            tie_each(tracing, tracing.axes(x)[axis], vector, _SCALED)


RULES = {
    **each(
        "fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask "
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams "
        "_fake_quantize_learnable_per_tensor_affine",
        per_tensor,
    ),
    **each(
        "fake_quantize_per_channel_affine fake_quantize_per_channel_affine_cachemask "
        "_fake_quantize_learnable_per_channel_affine",
        per_channel,
    ),
    **each("fused_moving_avg_obs_fake_quant _fused_moving_avg_obs_fq_helper", observed),
}
