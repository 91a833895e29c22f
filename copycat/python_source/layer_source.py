"""A stock layer of torch as the Python expression that makes it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from pruning.errors import ArchitectureError
from pruning.networks.torch_interior import Convolution

_UNWRITTEN = ("device", "dtype", "_weight", "_freeze")
"""Arguments that are no part of a layer's shape."""

_MISSING = object()


def is_stock(module: nn.Module) -> bool:
    """Whether `module` is one of torch.nn's own layers, not a container nor a subclass."""
    kind = type(module)
    return getattr(nn, kind.__name__, None) is kind and not list(module.children())


def layer_expression(layer: nn.Module) -> str:
    """Such as "nn.Conv2d(3, 12, 3, padding=1)": required arguments, and what is no default.

    layer: a stock one. Raises ArchitectureError if the expression does not make the same.
    """
    kind = type(layer)
    arguments = []
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            continue
        value = _argument(layer, name)
        required = parameter.default is parameter.empty
        if value is _MISSING or name in _UNWRITTEN or value == parameter.default:
            continue
        if name == "bias" and not getattr(
            layer, "affine", getattr(layer, "elementwise_affine", True)
        ):
            continue  # of a norm that has no scales either
        if name == "stride" and parameter.default is None and value == layer.kernel_size:
            continue  # of a pooling
        arguments.append(repr(value) if required else f"{name}={value!r}")
    expression = f"nn.{kind.__name__}({', '.join(arguments)})"
    _check(layer, expression)
    return expression


def _argument(layer: nn.Module, name: str) -> object:
    value = getattr(layer, name, _MISSING)
    if name == "bias" and (value is None or isinstance(value, Tensor)):
        return value is not None
    if isinstance(layer, Convolution) and isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else value
    return value


def _check(layer: nn.Module, expression: str) -> None:
    try:
        made: Any = eval(expression, {"nn": nn})  # of torch's own names and literals
    except Exception as error:  # an argument that the layer does not keep, say
        raise _unwritable(layer) from error
    if repr(made) != repr(layer) or _shapes(made) != _shapes(layer):
        raise _unwritable(layer)


def _unwritable(layer: nn.Module) -> ArchitectureError:
    return ArchitectureError(f"{layer} cannot be written as Python: nothing of torch.nn makes it")


def _shapes(layer: nn.Module) -> dict[str, tuple[object, ...]]:
    return {name: (value.shape, value.dtype) for name, value in layer.state_dict().items()}
