"""Pooling, interpolation and reductions: channels pass, other axes shrink, grow or go."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pruning.channel_labels import AxisLabels
from pruning.operators.rule import (
    Call,
    Rule,
    Tracing,
    each,
    normalized,
    pin_axes,
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
            tracing.count(factor_of_output, *leading, *extent)
        return [axes] * len(call.outputs)

    return rule


def adaptive_pool(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """aten::_adaptive_avg_pool2d; its FLOPs are counted where the composite call is seen."""
    return [_pass_leading(tracing, call.args[0], 2)] * len(call.outputs)


def reduction(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Drops or shortens the reduced axes; channels reduced over are pinned."""
    x = call.args[0]
    dims = _reduced_axes(call, x)
    pin_axes(tracing, x, dims, "reduced over all channels")
    axes = tracing.axes(x)
    keepdim = call.output.dim() == x.dim()
    kept = tuple(
        None if axis in dims else axes[axis]
        for axis in range(x.dim())
        if keepdim or axis not in dims
    )
    return [kept] * len(call.outputs)


def _reduced_axes(call: Call, x: Tensor) -> Sequence[int]:
    # norms take (x, order, dim); the other reductions (x, dim)
    position = 2 if "norm" in call.name else 1
    dim = call.arg(position, "dim")
    if dim is None or dim == [] or isinstance(dim, bool):
        return range(x.dim())
    dims = dim if isinstance(dim, list | tuple) else [dim]
    return [normalized(int(d), x.dim()) for d in dims]


RULES: dict[str, Rule] = {
    **each(
        "max_pool2d_with_indices avg_pool2d reflection_pad2d replication_pad2d", _spatial_rule(2)
    ),
    **each("max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d", _spatial_rule(3)),
    **each("avg_pool1d adaptive_max_pool1d reflection_pad1d replication_pad1d", _spatial_rule(1)),
    **each("adaptive_max_pool2d", _spatial_rule(2)),
    **each("_adaptive_avg_pool2d", adaptive_pool),
    **each("upsample_nearest2d", _spatial_rule(2, factor_of_output=1)),
    **each("upsample_bilinear2d", _spatial_rule(2, factor_of_output=4)),
    **each("upsample_bicubic2d _upsample_bilinear2d_aa", _spatial_rule(2)),
    **each("upsample_nearest1d upsample_linear1d", _spatial_rule(1)),
    **each("upsample_nearest3d upsample_trilinear3d", _spatial_rule(3)),
    **each(
        "mean sum amax amin max min var std var_mean std_mean prod any all argmax argmin "
        "logsumexp linalg_vector_norm norm",
        reduction,
    ),
}
