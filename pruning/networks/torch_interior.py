"""What is used of torch's interior, in one place: there is no public way to any of it.

Bases that layers of other people derive from, where torch exports only their descendants; what
operators declare; what modules register, with the slots that hold None; nested arguments.
"""

from __future__ import annotations

from typing import Any

from torch import FunctionSchema, Tensor, nn
from torch._C import DisableTorchFunction
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import (
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_map_only,
    tree_unflatten,
)

__all__ = [
    "BatchNorm",
    "Convolution",
    "DisableTorchFunction",
    "Dropout",
    "Norm",
    "TorchDispatchMode",
    "buffer_slots",
    "child_slots",
    "disable_current_modes",
    "function_modes",
    "parameter_slots",
    "schema_of",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
]

Convolution = _ConvNd
BatchNorm = _BatchNorm
Dropout = _DropoutNd
Norm = _NormBase
disable_current_modes = _disable_current_modes


def schema_of(operator: Any) -> FunctionSchema:
    """The declaration of an ATen operator: its name, its arguments and what it returns."""
    schema: FunctionSchema = operator._schema
    return schema


def function_modes() -> list[Any]:
    """The modes that calls of torch's functions pass in this thread, the innermost last."""
    modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return modes


def parameter_slots(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The registered parameters of `module` itself: the very mapping, which may be written to."""
    return module._parameters


def buffer_slots(module: nn.Module) -> dict[str, Tensor | None]:
    """The registered buffers of `module` itself."""
    return module._buffers


def child_slots(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules registered in `module` itself, those that stand there twice included."""
    return module._modules
