"""Copies of networks and inputs, so that what a run leaves on them is on no one else's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pruning.deep_copies import check_copyable
from pruning.errors import ModelError, TraceError


def copied(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of `model` with all its tensors on a device; on the meta device they take no memory.

    Caches, counters and buffers are its own. Parameters share their values with those of `model`
    where they need not be moved. Raises TraceError for a network that cannot be copied.
    """
    try:
        check_copyable(model)
    except ModelError as error:
        raise TraceError(str(error)) from error
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        value = parameter.detach().to(device) if device else parameter.detach()
        memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    try:
        with _MovedTensors(device):
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {error}") from error


def moved(value: Any, device: torch.device | None) -> Any:
    """`value` with copies of all its tensors, on a device or where they are."""
    return _each_tensor(_mover(device), value)


def doubled(value: Any) -> Any:
    """`value` with every tensor twice along its first axis."""
    return _each_tensor(lambda t: torch.cat([t, t]) if t.dim() else t, value)


def shapes(value: Any) -> list[str]:
    """The shapes of all tensors in `value`, such as 1×3×32×32."""
    leaves = tree_leaves(_plain(value))
    return ["×".join(map(str, leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor)]


def _each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tree_map_only(Tensor, change, _plain(value))


def _plain(value: Any) -> Any:
    """Mappings of other kinds, such as those of tokenizers, as dictionaries."""
    return dict(value) if isinstance(value, Mapping) else value


def _mover(device: torch.device | None) -> Callable[[Tensor], Tensor]:
    def move(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device) if device else tensor.detach().clone()

    return move


class _MovedTensors(TorchFunctionMode):
    """While this is open, copies of tensors are made on a device."""

    def __init__(self, device: torch.device | None) -> None:
        super().__init__()
        self._move = _mover(device)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self._move(tensor)
        return memo[id(tensor)]
