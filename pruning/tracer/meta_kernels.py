"""Operators on meta tensors, fast when they come again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.networks.nested_tensors import tensors_in
from pruning.networks.torch_interior import schema_of, tree_map_only

_IN_PLACE = object()
"""In place of a description: the operator returns its first argument as it was."""


class MetaKernels:
    """Runs operators; what one makes of meta tensors is worked out once per set of arguments.

    Meta kernels are Python that derives a shape, at up to half a millisecond a call; networks
    repeat their blocks, and a trace repeats the network. Operators of ATen are remembered that
    return new tensors or their first argument: shapes, strides and types determine the result.
    Tensors that the network makes itself, on whatever device, may meet those on the meta device.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What `func` returns."""
        if not schema_of(func).is_mutable:  # what is written to must be the network's own tensor
            args, kwargs = _on_one_device(args, kwargs)
        key = _key_of(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        if key in self._known:
            return _made(self._known[key], args)
        result = func(*args, **kwargs)
        if not _are_meta(result):  # made of numbers alone, on a real device
            return result
        if not schema_of(func).is_mutable:
            self._known[key] = _described(result)
        elif result is args[0] and _key_of(func, args, kwargs) == key:
            self._known[key] = _IN_PLACE
        return result


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
    return all(tensor.device.type == "meta" for tensor in tensors_in(result))


class _NotMetaError(Exception):
    """An argument that is not fully described by a key."""


def _key_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable | None:
    """What determines the result of a call, or None for calls that are not remembered."""
    returns = schema_of(func).returns
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    if func.namespace != "aten" or is_view or any(str(r.type) != "Tensor" for r in returns):
        return None
    try:
        return (func, _key(args), _key(tuple(kwargs.items())))
    except _NotMetaError:
        return None


def _key(value: Any) -> Hashable:
    """Equal for arguments that lead to equal results; 1, 1.0 and True are three things."""
    if isinstance(value, Tensor):
        if value.device.type != "meta" or type(value) not in (Tensor, nn.Parameter):
            raise _NotMetaError
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return (type(value), value)


def _described(result: Any) -> Any:
    """A tensor's shape, strides and type; for several tensors, a list; None for none."""
    if isinstance(result, Tensor):
        return (result.shape, result.stride(), result.dtype)
    return None if result is None else [_described(item) for item in result]


def _made(described: Any, args: tuple[Any, ...]) -> Any:
    if described is _IN_PLACE:
        return args[0]
    if isinstance(described, list):
        return tuple(_made(item, args) for item in described)
    if described is None:
        return None
    shape, stride, dtype = described
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
