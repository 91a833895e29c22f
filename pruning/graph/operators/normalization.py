"""Normalisation of activations and of weights, and softmax."""

from __future__ import annotations

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels
from pruning.graph.operators.rule import (
    Call,
    Rule,
    Tracing,
    count_elements,
    each,
    mix_axes,
    tie_each,
    tie_or_pin,
    unlabelled,
)

_OVER = "normalised over"


def batch_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Ties scale, offset and running statistics to the channel axis.

    fvcore, eval mode: 2 per element with an affine transformation, otherwise 1; 5 and 4 where
    statistics are taken from the batch, for want of running ones.
    """
    x = call.args[0]
    channel = tracing.axes(x)[1]
    reason = "standardised with the weights along them" if tracing.is_parameter(x) else _OVER
    mix_axes(tracing, x, [a for a in range(x.dim()) if a != 1], reason)
    for tensor in call.args[1:5]:
        if isinstance(tensor, Tensor):
            tie_each(tracing, channel, tensor, "normalised with fixed values")
    takes_statistics = True in [arg for arg in call.args if isinstance(arg, bool)]
    factor = 4 if takes_statistics else 1
    count_elements(tracing, x, factor=factor if call.args[1] is None else factor + 1)
    axes = (*tracing.axes(x)[:1], channel, *tracing.axes(x)[2:])
    statistics = [
        (channel,) if t.shape == x.shape[1:2] else unlabelled(t) for t in call.outputs[1:]
    ]
    return [axes, *statistics]


def layer_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Mixes the axes it normalises over: without one channel the mean of the others changes.

    fvcore: 5 per element with an affine transformation, otherwise 4.
    """
    axes = _normalised_last(tracing, call, "a layer normalisation runs over these channels")
    count_elements(tracing, call.args[0], factor=4 if call.args[2] is None else 5)
    return [axes, *(unlabelled(t) for t in call.outputs[1:])]


def rms_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_fused_rms_norm: without one channel the mean square of the others changes."""
    axes = _normalised_last(tracing, call, "a normalisation by the mean square of these channels")
    return [axes, *(unlabelled(t) for t in call.outputs[1:])]


def _normalised_last(tracing: Tracing, call: Call, reason: str) -> AxisLabels:
    """Mixes the last axes, as many as a normalisation's shape has, with scale and offset."""
    x, num_axes = call.args[0], len(call.args[1])
    axes, last = tracing.axes(x), range(x.dim() - num_axes, x.dim())
    mix_axes(tracing, x, last, reason)
    for tensor in call.args[2:4]:
        if isinstance(tensor, Tensor):
            mix_axes(tracing, tensor, range(num_axes), reason)
            for axis, labels in zip(last, tracing.axes(tensor), strict=True):
                tie_or_pin(tracing, axes[axis], labels, "normalised with fixed values")
    return axes


def group_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Ties the channels of each normalisation group: a group stays whole or goes.

    fvcore: 5 per element with an affine transformation, otherwise 4.
    """
    x, weight, bias = call.args[:3]
    num_groups = int(call.args[6])
    channel = tracing.axes(x)[1]
    group = None
    if channel is not None:
        if num_groups > 1:
            group = tracing.channels.tie_rows(channel.reshape(num_groups, -1).T)
        else:
            tracing.channels.mixes(channel, "one normalisation runs over all channels")
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            tie_each(tracing, channel, tensor, "normalised with fixed values")
    count_elements(tracing, x, factor=4 if weight is None else 5)
    axes = tuple(channel if axis == 1 else None for axis in range(x.dim()))
    # mean and deviation, N×groups: by them a later run shows whether whole groups went
    return [axes, *((None, group) for _ in call.outputs[1:])]


def weight_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_weight_norm_interface: pins the axes over which a weight is normalised."""
    weight, magnitude = call.args[:2]
    kept = int(call.arg(2, "dim", 0))
    others = [axis for axis in range(weight.dim()) if axis != kept]
    mix_axes(tracing, weight, others, "a weight norm runs over these channels: remove it first")
    axes = tracing.axes(weight)
    tie_or_pin(tracing, axes[kept], tracing.axes(magnitude)[kept], "a weight of a fixed norm")
    norms = [
        tuple(axes[a] if a == kept else None for a in range(t.dim())) for t in call.outputs[1:]
    ]
    return [axes, *norms]


def softmax(tracing: Tracing, call: Call) -> AxisLabels:
    """Mixes the axis that sums to one."""
    mix_axes(tracing, call.args[0], [call.args[1]], "a softmax runs over these channels")
    return tracing.axes(call.args[0])


RULES: dict[str, Rule] = {
    **each(
        "native_batch_norm cudnn_batch_norm miopen_batch_norm "
        "_native_batch_norm_legit _native_batch_norm_legit_no_training",
        batch_norm,
    ),
    **each("native_layer_norm", layer_norm),
    **each("_fused_rms_norm", rms_norm),
    **each("native_group_norm", group_norm),
    **each("_weight_norm_interface", weight_norm),
    **each("_softmax _log_softmax _safe_softmax", softmax),
}
