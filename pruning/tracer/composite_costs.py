"""The calls that fvcore counts, or leaves out, as a whole.

They reach the dispatcher as several operators, which would be counted otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.einsum_products import einsum_products
from pruning.graph.operators.rule import Size, Tracing, count_elements, size_of

ATTENTION = "scaled_dot_product_attention"

Counter = Callable[[Tracing, tuple[Any, ...], Mapping[str, Any]], None]
"""Counts what a call with these arguments has cost."""


def is_area(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `interpolate` averages an image, for which it calls adaptive_avg_pool2d."""
    mode = args[3] if len(args) > 3 else kwargs.get("mode")
    return mode == "area" and _given(args, kwargs, 0, "input").dim() == 4


def _pool(tracing: Tracing, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    count_elements(tracing, _given(args, kwargs, 0, "input"))


def _instance_norm(tracing: Tracing, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    is_affine = _given(args, kwargs, 3, "weight") is not None
    count_elements(tracing, _given(args, kwargs, 0, "input"), factor=5 if is_affine else 4)


def _matmul(tracing: Tracing, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """fvcore: all sizes of the first operand times the last of the second."""
    first, second = _given(args, kwargs, 0, "input"), _given(args, kwargs, 1, "other")
    sizes = _sizes(tracing, first)
    tracing.costs.count(1, *sizes, *_sizes(tracing, second)[-1:] if second.dim() > 1 else ())


def _einsum(tracing: Tracing, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
    equation, *operands = args
    if len(operands) == 1 and not isinstance(operands[0], Tensor):
        operands = list(operands[0])
    names, products = einsum_products(equation, [operand.dim() for operand in operands])
    sizes: dict[str, Size] = {}
    for axes, operand in zip(names, operands, strict=True):
        for name, size in zip(axes, _sizes(tracing, operand), strict=True):
            before = sizes.get(name, 1)
            if isinstance(before, int) and (not isinstance(size, int) or size > before):
                sizes[name] = size
    for product in products:
        tracing.costs.count(1, *(sizes.get(name, 1) for name in product))


def _attention(tracing: Tracing, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """…×L×E queries by …×S×E keys, and their products by …×S×V values."""
    query, key, value = (
        _given(args, kwargs, i, n) for i, n in enumerate(("query", "key", "value"))
    )
    *rows, channels = _sizes(tracing, query)
    positions = size_of(key, -2, tracing)
    tracing.costs.count(1, *rows, channels, positions)
    tracing.costs.count(1, *rows, positions, size_of(value, -1, tracing))


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs.get(name)


def _sizes(tracing: Tracing, tensor: Tensor) -> list[Size]:
    return [size_of(tensor, axis, tracing) for axis in range(tensor.dim())]


WHOLE: Mapping[Any, Counter] = {
    F.adaptive_avg_pool2d: _pool,
    F.interpolate: _pool,
    F.instance_norm: _instance_norm,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.einsum: _einsum,
    F.scaled_dot_product_attention: _attention,
}
"""Calls that have a count of their own, whatever they are made of."""

UNCOUNTED: Mapping[Any, str] = {
    function: function.__name__
    for function in (
        F.scaled_dot_product_attention,
        *(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
        *(torch.inner, Tensor.inner, torch.tensordot, torch.chain_matmul),
        *(torch.linalg.multi_dot, torch.cdist, torch.bilinear, F.bilinear),
    )
}
"""Calls that fvcore leaves out, by name: what they are made of, or WHOLE, says how much that is."""
