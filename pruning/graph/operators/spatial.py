"""Pooling, padding and interpolation: channels pass, positions shrink, grow or are chosen."""

from __future__ import annotations

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels
from pruning.graph.operators.rule import (
    Call,
    Rule,
    Tracing,
    each,
    pin_all,
    pin_axes,
    tie_or_pin,
    unlabelled,
)


def _pass_leading(tracing: Tracing, x: Tensor, num_spatial: int) -> AxisLabels:
    spatial = range(x.dim() - num_spatial, x.dim())
    pin_axes(tracing, x, spatial, "pooled or resized over")
    axes = tracing.axes(x)
    return tuple(None if axis in spatial else axes[axis] for axis in range(x.dim()))


def _spatial_rule(num_spatial: int, factor_of_output: int = 0) -> Rule:
    """Rule of an operator over the last axes; fvcore counts factor × output elements."""

    def rule(tracing: Tracing, call: Call) -> list[AxisLabels]:
        axes = _pass_leading(tracing, call.args[0], num_spatial)
        if factor_of_output:
            extent = [int(size) for size in call.output.shape[-num_spatial:]]
            leading = [
                call.output.shape[axis] if labels is None else labels
                for axis, labels in enumerate(axes[:-num_spatial])
            ]
            tracing.costs.count(factor_of_output, *leading, *extent)
        return [axes] * len(call.outputs)

    return rule


def adaptive_pool(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_adaptive_avg_pool2d; its FLOPs are counted where the composite call is seen."""
    return [_pass_leading(tracing, call.args[0], 2)] * len(call.outputs)


def unpool(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::max_unpool2d and aten::max_unpool3d: values and their indices are tied."""
    x, indices = call.args[:2]
    num_spatial = len(call.args[2])
    axes = _pass_leading(tracing, x, num_spatial)
    for first, second in zip(axes, _pass_leading(tracing, indices, num_spatial), strict=True):
        tie_or_pin(tracing, first, second, "put at fixed positions")
    return axes


def grid_sampler(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::grid_sampler_2d and …_3d: values N×C×…, taken at positions that have no channels.

    fvcore counts 4 per element of the output.
    """
    x, grid = call.args[:2]
    pin_all(tracing, [grid], "used as positions")
    axes = _pass_leading(tracing, x, x.dim() - 2)
    channels = int(x.shape[1]) if axes[1] is None else axes[1]
    tracing.costs.count(4, int(x.shape[0]), channels, *map(int, call.output.shape[2:]))
    return axes


def affine_grid(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::affine_grid_generator: positions, made of the entries of small matrices."""
    pin_all(tracing, call.tensors, "used as positions")
    return unlabelled(call.output)


def pool_regions(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """torchvision::roi_align, torchvision::roi_pool: N×C×H×W and boxes K×5 → K×C×h×w."""
    x, boxes = call.args[:2]
    pin_all(tracing, [boxes], "used as positions")
    pin_axes(tracing, x, [0, 2, 3], "pooled or resized over")
    return [(None, tracing.axes(x)[1], None, None)] * len(call.outputs)


RULES: dict[str, Rule] = {
    "torchvision::roi_align": pool_regions,
    "torchvision::roi_pool": pool_regions,
    **each(
        "max_pool2d_with_indices avg_pool2d reflection_pad2d replication_pad2d", _spatial_rule(2)
    ),
    **each(
        "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d "
        "reflection_pad3d replication_pad3d",
        _spatial_rule(3),
    ),
    **each("avg_pool1d adaptive_max_pool1d reflection_pad1d replication_pad1d", _spatial_rule(1)),
    **each("adaptive_max_pool2d", _spatial_rule(2)),
    **each("_adaptive_avg_pool2d", adaptive_pool),
    **each("upsample_nearest2d", _spatial_rule(2, factor_of_output=1)),
    **each("upsample_bilinear2d", _spatial_rule(2, factor_of_output=4)),
    **each(
        "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "_upsample_nearest_exact2d",
        _spatial_rule(2),
    ),
    **each("upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d", _spatial_rule(1)),
    **each("upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d", _spatial_rule(3)),
    **each("max_unpool2d max_unpool3d", unpool),
    **each("grid_sampler_2d grid_sampler_3d", grid_sampler),
    **each("affine_grid_generator", affine_grid),
}
