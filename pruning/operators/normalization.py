"""Normalisation of activations and of weights, and softmax."""

from __future__ import annotations

from torch import Tensor

from pruning.channel_labels import AxisLabels
from pruning.operators.rule import (
    Call,
    Rule,
    Tracing,
    count_elements,
    each,
    pin_axes,
    tie_or_pin,
    unlabelled,
)


def batch_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Ties scale, offset and running statistics to the channel axis.

    fvcore, eval mode: 2 per element with an affine transformation, otherwise 1; 5 and 4 where
    statistics are taken from the batch, for want of running ones.
    """
    x = call.args[0]
    channel = tracing.axes(x)[1]
    pin_axes(tracing, x, [a for a in range(x.dim()) if a != 1], "normalised over")
    for tensor in call.args[1:5]:
        if isinstance(tensor, Tensor):
            tie_or_pin(tracing, channel, tracing.axes(tensor)[0], "normalised with fixed values")
    takes_statistics = True in [arg for arg in call.args if isinstance(arg, bool)]
    factor = 4 if takes_statistics else 1
    count_elements(tracing, x, factor=factor if call.args[1] is None else factor + 1)
    axes = tuple(channel if axis == 1 else None for axis in range(x.dim()))
    statistics = [
        (channel,) if t.shape == x.shape[1:2] else unlabelled(t) for t in call.outputs[1:]
    ]
    return [axes, *statistics]


def layer_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Pins the axes it normalises over: without one channel the mean of the others changes.

    fvcore: 5 per element with an affine transformation, otherwise 4.
    """
    x, shape = call.args[0], call.args[1]
    reason = "a layer normalisation runs over these channels"
    first = x.dim() - len(shape)
    pin_axes(tracing, x, range(first, x.dim()), reason)
    for tensor in call.args[2:4]:
        if isinstance(tensor, Tensor):
            pin_axes(tracing, tensor, range(tensor.dim()), reason)
    count_elements(tracing, x, factor=4 if call.args[2] is None else 5)
    axes = tracing.axes(x)
    return [axes, *(unlabelled(t) for t in call.outputs[1:])]


def group_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Ties the channels of each normalisation group: a group stays whole or goes.

    fvcore: 5 per element with an affine transformation, otherwise 4.
    """
    x, weight, bias = call.args[:3]
    num_groups = int(call.args[6])
    channel = tracing.axes(x)[1]
    group = None
    if channel is not None:
        group = tracing.channels.tie_rows(channel.reshape(num_groups, -1).T)
        if num_groups == 1:
            tracing.channels.pin(channel, "one normalisation runs over all channels")
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            tie_or_pin(tracing, channel, tracing.axes(tensor)[0], "normalised with fixed values")
    count_elements(tracing, x, factor=4 if weight is None else 5)
    axes = tuple(channel if axis == 1 else None for axis in range(x.dim()))
    # mean and deviation, N×groups: by them a later run shows whether whole groups went
    return [axes, *((None, group) for _ in call.outputs[1:])]


def weight_norm(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_weight_norm_interface: pins the axes over which a weight is normalised."""
    weight, magnitude = call.args[:2]
    kept = int(call.arg(2, "dim", 0))
    others = [axis for axis in range(weight.dim()) if axis != kept]
    pin_axes(tracing, weight, others, "a weight norm runs over these channels: remove it first")
    axes = tracing.axes(weight)
    tie_or_pin(tracing, axes[kept], tracing.axes(magnitude)[kept], "a weight of a fixed norm")
    norms = [
        tuple(axes[a] if a == kept else None for a in range(t.dim())) for t in call.outputs[1:]
    ]
    return [axes, *norms]


def softmax(tracing: Tracing, call: Call) -> AxisLabels:
    """Pins the axis that sums to one."""
    pin_axes(tracing, call.args[0], [call.args[1]], "a softmax runs over these channels")
    return tracing.axes(call.args[0])


RULES: dict[str, Rule] = {
    **each(
        "native_batch_norm cudnn_batch_norm miopen_batch_norm "
        "_native_batch_norm_legit _native_batch_norm_legit_no_training",
        batch_norm,
    ),
    **each("native_layer_norm", layer_norm),
    **each("native_group_norm", group_norm),
    **each("_weight_norm_interface", weight_norm),
    **each("_softmax _log_softmax _safe_softmax", softmax),
}
