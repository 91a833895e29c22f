"""Operators on meta tensors, fast when they come again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning.graph.operators.rule import aten_names
from pruning.networks.nested_tensors import tensors_in
from pruning.networks.torch_interior import tree_map_only
from pruning.tracer.declarations import declaration_of

_MOST_KNOWN = 100_000
"""Results that are remembered before all are forgotten: some tens of megabytes."""

_UNKNOWN = object()
_IN_PLACE = object()
"""In place of a description: the operator returns its first argument as it was."""


class MetaKernels:
    """Runs operators; what one makes of meta tensors is worked out once per set of arguments.

    Meta kernels are Python that derives a shape, at up to half a millisecond a call; networks
    repeat their blocks, and a trace repeats the network. Operators of ATen are remembered that
    return new tensors or their first argument: shapes, strides and types determine the result.
    Of those that take most time the shapes are known at once, so that networks of other widths
    need no kernel either; types are remembered.
    Tensors that the network makes itself, on whatever device, may meet those on the meta device.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}
        self._types: dict[Hashable, tuple[int, tuple[torch.dtype, ...]]] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `func` returns."""
        is_mutable = declaration_of(func).is_mutable
        key = _key_of(func, args, kwargs)
        if not is_mutable and (key is None or "device" in kwargs):
            # not what is written to, which must be the network's own tensor
            args, kwargs = _on_one_device(args, kwargs)
            key = _key_of(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        if (known := self._known.get(key, _UNKNOWN)) is not _UNKNOWN:
            return _made(known, args)
        choices, types_key = _shapes(func, args, kwargs), _types_key(func, args, kwargs)
        if choices and types_key in self._types:
            place, types = self._types[types_key]
            if is_mutable:
                return args[0]
            described = _contiguous(choices[place], types)
            return _made(described[0] if len(described) == 1 else described, args)
        result = func(*args, **kwargs)
        if not _are_meta(result):  # made of numbers alone, on a real device
            return result
        if not is_mutable or (result is args[0] and _key_of(func, args, kwargs) == key):
            self._keep(key, types_key, choices, result)
            if is_mutable:
                self._known[key] = _IN_PLACE
        return result

    def _keep(self, key: Hashable, types_key: Hashable, choices: _Choices, result: Any) -> None:
        """Remember what a call has returned, which changed nothing but values."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = _described(result)
        tensors = list(tensors_in(result))
        described, types = list(map(_described, tensors)), tuple(t.dtype for t in tensors)
        for place, shapes in enumerate(choices):
            if described == _contiguous(shapes, types):
                self._types[types_key] = place, types


@functools.cache
def kernels_of(_default: torch.dtype) -> MetaKernels:
    """Those that all traces of a process share while torch's default type is this one."""
    return MetaKernels()


def _on_one_device(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments with everything on the meta device, if anything but scalars is there."""
    devices = {tensor.device.type for tensor in tensors_in((args, kwargs))}
    if "meta" not in devices:
        return args, kwargs
    if len(devices) > 1:
        args, kwargs = tree_map_only(Tensor, _on_meta, (args, kwargs))
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != "meta":
        kwargs = {**kwargs, "device": torch.device("meta")}
    return args, kwargs


def _on_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "meta" or not tensor.dim() else tensor.to("meta")


def _are_meta(result: Any) -> bool:
    return all(tensor.is_meta for tensor in tensors_in(result))


class _NotMetaError(Exception):
    """An argument that is not fully described by a key."""


def _key_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable | None:
    """What determines the result of a call, or None for calls that are not remembered."""
    if not declaration_of(func).makes_tensors:
        return None
    try:
        return (func, _key(args), _key(tuple(kwargs.items())))
    except _NotMetaError:
        return None


def _key(value: Any) -> Hashable:
    """Equal for arguments that lead to equal results; 1, 1.0 and True are three things."""
    if isinstance(value, Tensor):
        if not value.is_meta or type(value) not in (Tensor, nn.Parameter):
            raise _NotMetaError
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return (type(value), value)


_Shape = tuple[int, ...]
_Choices = list[list[_Shape]]
"""Of shapes that a call may return; which of them it does is seen the first time."""


def _shapes(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Choices:
    """The shapes of what a call returns, or none if that takes a kernel to tell, or to refuse.

    Of calls that write, those that change the values of their first argument alone.
    """
    declared = declaration_of(func)
    is_pointwise = declared.is_pointwise or declared.name in _POINTWISE
    is_in_place = is_pointwise and declared.name.endswith("_") and isinstance(args[0], Tensor)
    rule = _SHAPES.get(declared.name, _broadcast if is_pointwise else None)
    tensors = list(tensors_in(args))
    if rule is None or not tensors or (declared.is_mutable and not is_in_place):
        return []
    if "memory_format" in kwargs or any(isinstance(value, Tensor) for value in kwargs.values()):
        return []
    if rule is not _linear and not all(tensor.is_contiguous() for tensor in tensors):
        return []
    choices = rule(args, tensors)
    return [] if is_in_place and choices != [[tuple(args[0].shape)]] else choices


def _broadcast(_args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """The shape that all tensors are broadcast to."""
    shape = tuple(tensors[0].shape)
    if all(tensor.shape == shape for tensor in tensors):
        return [[shape]]
    num_axes = max(tensor.dim() for tensor in tensors)
    padded = [(*[1] * (num_axes - tensor.dim()), *tensor.shape) for tensor in tensors]
    sizes = [set(column) - {1} for column in zip(*padded, strict=True)]
    if any(len(different) > 1 for different in sizes):
        return []
    return [[tuple(different.pop() if different else 1 for different in sizes)]]


def _mean(args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """Without the axes that the mean is taken over, or with these of size 1."""
    shape, dims = tensors[0].shape, args[1] if len(args) > 1 else None
    if not isinstance(dims, list | tuple) or not dims:
        return []
    over = {dim % len(shape) for dim in dims}
    if len(args) > 2 and args[2]:
        return [[tuple(1 if axis in over else size for axis, size in enumerate(shape))]]
    return [[tuple(size for axis, size in enumerate(shape) if axis not in over)]]


def _convolution(args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """N×C×… by a weight of O×C/groups×…; one that is transposed takes its kernel."""
    x, weight, *biases = tensors
    strides, paddings, dilations, is_transposed, _, groups = args[3:9]
    num_spatial = weight.dim() - 2
    if (
        is_transposed
        or x.dim() != weight.dim()
        or x.shape[1] != weight.shape[1] * groups
        or weight.shape[0] % groups
        or any(bias.shape != weight.shape[:1] for bias in biases)
    ):
        return []
    extents = []
    for axis in range(num_spatial):
        stride, padding, dilation = (
            numbers[axis if len(numbers) > 1 else 0] for numbers in (strides, paddings, dilations)
        )
        reach = dilation * (weight.shape[2 + axis] - 1) + 1
        extents.append((x.shape[2 + axis] + 2 * padding - reach) // stride + 1)
    return [[(x.shape[0], weight.shape[0], *extents)]] if min(extents, default=1) > 0 else []


def _batch_norm(_args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """The output, mean and standard deviation; some kernels leave the last two empty in eval."""
    x, *others = tensors
    if x.dim() < 2 or any(other.shape != x.shape[1:2] for other in others):
        return []
    return [[tuple(x.shape), *[(size,)] * 2] for size in (x.shape[1], 0)]


def _layer_norm(args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """The output, mean and standard deviation; of size 1 along the axes that are normalised."""
    x, *others = tensors
    sizes = tuple(args[1])
    if x.shape[-len(sizes) :] != sizes or any(other.shape != sizes for other in others):
        return []
    statistics = (*x.shape[: -len(sizes)], *[1] * len(sizes))
    return [[tuple(x.shape), statistics, statistics]]


def _linear(_args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """A bias of one value per column, rows and a matrix."""
    bias, first, second = tensors
    if first.shape[1] != second.shape[0] or bias.shape != second.shape[1:]:
        return []
    return [[(first.shape[0], second.shape[1])]]


def _cat(args: Sequence[Any], tensors: Sequence[Tensor]) -> _Choices:
    """As long along one axis as all together; alike along the others."""
    first = tuple(tensors[0].shape)
    if not first or any(tensor.dim() != len(first) for tensor in tensors):
        return []
    axis = (args[1] if len(args) > 1 else 0) % len(first)
    if len({(*tensor.shape[:axis], *tensor.shape[axis + 1 :]) for tensor in tensors}) > 1:
        return []
    size = sum(tensor.shape[axis] for tensor in tensors)
    return [[(*first[:axis], size, *first[axis + 1 :])]]


_POINTWISE = frozenset(aten_names("hardswish hardswish_ mish_ gelu_ threshold_"))
"""Operators that are pointwise although torch does not tag them so."""

_SHAPES: Mapping[str, Callable[[Sequence[Any], Sequence[Tensor]], _Choices]] = {
    "aten::cat": _cat,
    "aten::convolution": _convolution,
    "aten::mean": _mean,
    **dict.fromkeys(aten_names("native_batch_norm"), _batch_norm),
    **dict.fromkeys(aten_names("native_layer_norm"), _layer_norm),
    **dict.fromkeys(aten_names("addmm"), _linear),
}


def _contiguous(shapes: Sequence[_Shape], types: Sequence[torch.dtype]) -> list[Any]:
    """Descriptions of tensors of these shapes and types, with their axes in order in memory."""
    if len(shapes) != len(types):
        return []
    pairs = zip(shapes, types, strict=True)
    return [(torch.Size(s), _strides(s), dtype) for s, dtype in pairs]


def _strides(shape: _Shape) -> _Shape:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()


def _types_key(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    """What determines the types of a result, given its shapes: sizes do not."""
    return (func, tuple(map(_type_key, args)), _key(tuple(kwargs.items())))


def _type_key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return (value.dtype, value.dim() > 0)
    if isinstance(value, (list, tuple)):
        return tuple(_type_key(item) for item in value if isinstance(item, Tensor))
    return (type(value), value)


def _described(result: Any) -> Any:
    """A tensor's shape, strides and type; for several tensors, a list; None for none."""
    if isinstance(result, Tensor):
        return (result.shape, result.stride(), result.dtype)
    return None if result is None else [_described(item) for item in result]


def _made(described: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(described, tuple):
        shape, stride, dtype = described
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    if described is _IN_PLACE:
        return args[0]
    return None if described is None else tuple(_made(item, args) for item in described)
