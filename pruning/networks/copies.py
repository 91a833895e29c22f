"""Copies of networks and inputs, so that what a run leaves on them is on no one else's."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from pruning.errors import ModelError
from pruning.networks.torch_interior import parameter_slots, tree_leaves, tree_map_only

_REMEDIES = (
    (BasePruningMethod, "call torch.nn.utils.prune.remove on it first"),
    (WeightNorm, "use torch.nn.utils.parametrizations.weight_norm, or call remove_weight_norm"),
    (SpectralNorm, "use torch.nn.utils.parametrizations.spectral_norm, or remove_spectral_norm"),
)
"""Hooks that leave tensors behind which they computed, and what to do about each."""


def deep_copy(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy of `model`, with what `memo` has in place of what it names by id.

    Raises ModelError for a network that cannot be copied.
    """
    check_copyable(model)
    return copy_of_checked(model, {} if memo is None else memo)


def copy_of_checked(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    """`deep_copy` of a network that `check_copyable` was called with; it adds to `memo`."""
    twins: list[tuple[nn.Module, nn.Module]] = []
    modules = list(model.modules())
    by_default = {kind for kind in set(map(type, modules)) if _is_copied_by_default(kind)}
    for module in modules:
        if id(module) not in memo and type(module) in by_default:
            twin = memo[id(module)] = type(module).__new__(type(module))
            twins.append((module, twin))
    try:
        for module, twin in reversed(twins):  # parts first: what copies itself looks at them
            twin.__dict__.update(
                {
                    name: value if type(value) in _ATOMIC else _copied_value(value, memo)
                    for name, value in vars(module).items()
                    if name != _COMPILED
                }
            )
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module holds may raise anything
        raise ModelError(f"{type(model).__name__} cannot be copied: {error}") from error


def _is_copied_by_default(kind: type[nn.Module]) -> bool:
    """Whether deepcopy makes another one of this class with copies of its attributes.

    It takes five times as long for that. Classes with a way of their own to be copied are left to
    it; what torch's layers do when they are unpickled is for files of old versions.
    """
    own = {name for base in kind.__mro__ if base not in _STOCK for name in vars(base)}
    is_stock = kind.__module__.startswith("torch.nn.modules.")
    return not own & _OWN_WAYS and (is_stock or kind.__setstate__ is nn.Module.__setstate__)


_STOCK = (nn.Module, object)
_COMPILED = "_compiled_call_impl"
"""What torch leaves out of copies of its modules: it runs the original."""

_OWN_WAYS = frozenset(
    {"__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__new__", "__slots__"}
)


def _copied_value(value: Any, memo: dict[int, object]) -> Any:
    """A deep copy of an attribute; nearly all are plain, or mappings of what `memo` has."""
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if kind is tuple and all(type(item) in _ATOMIC for item in value):
        return value
    if kind is dict and all(v is None or id(v) in memo for v in value.values()):
        twin: Any = {key: memo.get(id(item)) for key, item in value.items()}
    elif kind in (OrderedDict, set) and not value:
        twin = kind()
    else:
        return copy.deepcopy(value, memo)
    memo[id(value)] = twin
    return twin


_ATOMIC = frozenset({bool, int, float, str, type(None)})


def copied(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of `model` with all its tensors on a device; on the meta device they take no memory.

    Caches, counters and buffers are its own. Parameters share their values with those of `model`
    where they need not be moved. Raises ModelError for a network that cannot be copied.
    """
    check_copyable(model)
    return copied_checked(model, device)


def copied_checked(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """`copied` of a network that `check_copyable` was called with."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        value = parameter.detach()
        if device is not None:
            value = value.to(device)
        elif value.is_inference():  # which can't be trained outside of inference mode
            value = value.clone()
        memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    move = _mover(device)
    memo |= {id(buffer): move(buffer) for buffer in model.buffers()}
    with _MovedTensors(device):
        return copy_of_checked(model, memo)


def check_copyable(model: nn.Module) -> None:
    """Raise ModelError for parameters without values, and for tensors computed from parameters.

    And for modules that TorchScript has compiled, whose code and sizes are out of reach.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{_named(module, name)} is compiled by TorchScript, so that its sizes are fixed: "
                "put the module in its place that it was compiled from"
            )
        if any(is_lazy(p) for p in parameter_slots(module).values() if p is not None):
            raise ModelError(
                f"{_named(module, name)} has no weights before it has seen an input: run the "
                "network once first"
            )
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise ModelError(
                    f"{_named(module, name)} keeps {attribute!r}, which was computed from "
                    f"parameters, so that it cannot be copied: {_remedy(module)}"
                )


def _named(module: nn.Module, name: str) -> str:
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__


def _remedy(module: nn.Module) -> str:
    hooks = tuple(module._forward_pre_hooks.values())
    for kind, remedy in _REMEDIES:
        if any(isinstance(hook, kind) for hook in hooks):
            return remedy
    return "keep a detached copy, or compute it in forward"


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
