"""Operators that exchange channels with positions, or with each other, by a constant pattern."""

from __future__ import annotations

import math

import numpy as np

from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import Call, Rule, Tracing, each, pin_axes


def channel_shuffle(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::channel_shuffle: C = g×n → n×g; each of the g parts keeps the same positions."""
    x, groups = call.args[0], int(call.args[1])
    axes = list(tracing.axes(x))
    labels = axes[1]
    if labels is not None:
        axes[1] = np.repeat(tracing.channels.tie_rows(labels.reshape(groups, -1)), groups)
    return tuple(axes)


def pixel_shuffle(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::pixel_shuffle: C·r² → C; the r² channels of each output stay together."""
    labels = _channels(tracing, call, axis=-3)
    labels = _gathered(tracing, labels, int(call.args[1]) ** 2)
    return (*tracing.axes(call.args[0])[:-3], labels, None, None)


def pixel_unshuffle(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::pixel_unshuffle: C → C·r²; each channel becomes r² neighbouring ones."""
    labels = _channels(tracing, call, axis=-3)
    labels = None if labels is None else np.repeat(labels, int(call.args[1]) ** 2)
    return (*tracing.axes(call.args[0])[:-3], labels, None, None)


def unfold_patches(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::im2col: …×C×H×W → …×(C·k)×L for windows of k positions."""
    labels = _channels(tracing, call, axis=-3)
    labels = None if labels is None else np.repeat(labels, math.prod(call.args[1]))
    return (*tracing.axes(call.args[0])[:-3], labels, None)


def fold_patches(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::col2im: …×(C·k)×L → …×C×H×W; the k positions of each channel stay together."""
    labels = _channels(tracing, call, axis=-2)
    labels = _gathered(tracing, labels, math.prod(call.args[2]))
    return (*tracing.axes(call.args[0])[:-2], labels, None, None)


def _channels(tracing: Tracing, call: Call, axis: int) -> Labels | None:
    """Labels of the channel axis; whatever is behind it, positions as a rule, is pinned."""
    x = call.args[0]
    pin_axes(tracing, x, range(axis + 1, 0), "rearranged as positions")
    return tracing.axes(x)[axis]


def _gathered(tracing: Tracing, labels: Labels | None, number: int) -> Labels | None:
    """Labels of channels that are made of `number` neighbouring ones each."""
    return None if labels is None else tracing.channels.tie_rows(labels.reshape(-1, number).T)


RULES: dict[str, Rule] = {
    **each("channel_shuffle native_channel_shuffle", channel_shuffle),
    **each("pixel_shuffle", pixel_shuffle),
    **each("pixel_unshuffle", pixel_unshuffle),
    **each("im2col", unfold_patches),
    **each("col2im", fold_patches),
}
