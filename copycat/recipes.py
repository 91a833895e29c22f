"""How a network's fresh weights are drawn, so that another width can be drawn the same way.

A constructor's calls of `torch.nn.init` are recorded while it runs. Replayed on tensors of
other shapes they give what the constructor would have drawn, had it been written at that
width: fans are computed anew from the new shapes.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from copycat.builder import Builder
from pruning.networks.torch_interior import Convolution, parameter_slots

OWN, LAYER, CONSTRUCTOR, MATCHED = (
    "the network's own reset_parameters()",
    "its layer's reset_parameters()",
    "its constructor's torch.nn.init calls",
    "matched to the base network's distribution",
)
"""Where the fresh values of a parameter can come from."""

_INITIALISERS = tuple(
    name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")
)
_RESETS = ("reset_parameters", "_reset_parameters")
"""Stock layers call it the first; MultiheadAttention and Transformer the second."""

_STOCK_RESETS = (Convolution.reset_parameters, nn.Linear.reset_parameters)
"""They draw the whole weight and leave no buffer behind."""

_FAN_CONSTANTS = (1.0, 2.0, 3.0, 6.0)
_CLOSE = 1e-6


@dataclass(frozen=True)
class InitCall:
    """One call of a `torch.nn.init` function on one parameter."""

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: torch.Size

    def replay(self, tensor: Tensor) -> None:
        """The same call on a tensor of another shape.

        A standard deviation (or a bound) that was √(g / fan) of the old shape, for a fan that
        the constructor worked out itself, becomes √(g / fan) of the new one.
        """
        args = tuple(self._rescaled(value, tensor) for value in self.args)
        kwargs = {name: self._rescaled(value, tensor) for name, value in self.kwargs.items()}
        getattr(nn.init, self.function)(tensor, *args, **kwargs)

    def _rescaled(self, value: Any, tensor: Tensor) -> Any:
        if self.function not in ("normal_", "uniform_", "trunc_normal_") or tensor.dim() < 2:
            return value
        if not isinstance(value, float) or value == 0:
            return value
        for old, new in zip(_fans(self.shape), _fans(tensor.shape), strict=True):
            for gain in _FAN_CONSTANTS:
                if math.isclose(abs(value), math.sqrt(gain / old), rel_tol=_CLOSE):
                    return math.copysign(math.sqrt(gain / new), value)
        return value


@dataclass(frozen=True)
class Recipe:
    """The calls that a constructor made on each parameter, by name, in order."""

    calls: Mapping[str, tuple[InitCall, ...]]

    def replay(self, name: str, tensor: Tensor) -> bool:
        """Draw `tensor` as parameter `name`; False if the constructor made no call on it."""
        for call in self.calls.get(name, ()):
            call.replay(tensor)
        return name in self.calls


def recorded(builder: Builder) -> tuple[nn.Module, Recipe]:
    """A fresh base network and the recipe of its constructor.

    Calls inside a layer's own `reset_parameters` are left out: those are repeated by calling it.
    """
    calls: dict[int, list[InitCall]] = {}
    with _recording(calls):
        model = builder()
    by_name = {
        name: tuple(calls[id(parameter)])
        for name, parameter in model.named_parameters()
        if id(parameter) in calls
    }
    return model, Recipe(by_name)


@contextmanager
def _recording(calls: dict[int, list[InitCall]]) -> Iterator[None]:
    """Notes every outermost call of a `torch.nn.init` function inside the block."""
    depth = 0
    alive: list[Tensor] = []  # an id is a tensor's own only while the tensor lives

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            by_layer = sys._getframe(1).f_code.co_name in _RESETS
            if depth == 0 and not by_layer:
                call = InitCall(name, args, kwargs, tensor.shape)
                calls.setdefault(id(tensor), []).append(call)
                alive.append(tensor)
            depth += 1
            try:
                return function(tensor, *args, **kwargs)
            finally:
                depth -= 1

        return wrapper

    originals = {name: getattr(nn.init, name) for name in _INITIALISERS}
    for name, function in originals.items():
        setattr(nn.init, name, noting(name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(nn.init, name, function)


def draw(model: nn.Module, base: nn.Module, recipe: Recipe | None) -> dict[str, str]:
    """Draw fresh weights for `model`, a resized `base`; returns where each parameter's came from.

    The network's own `reset_parameters()` if it has one; otherwise its constructor's recipe,
    then each layer's `reset_parameters()`; a bare parameter that neither reaches is drawn
    from a normal distribution with the mean and deviation of the base network's. A
    `reset_parameters()` that only works at the sizes of the base network is passed over.
    """
    own = getattr(model, "reset_parameters", None)
    if callable(own) and _reset(model, own):
        return {name: OWN for name, _ in model.named_parameters()}
    sources: dict[str, str] = {}
    for prefix, module in reversed(list(model.named_modules())):  # layers within layers first
        reset = next((r for name in _RESETS if callable(r := getattr(module, name, None))), None)
        names = [name for name, _ in module.named_parameters(prefix)] if reset else []
        if reset is None or (_is_stock(module) and _draws_all(recipe, names)):
            continue
        if _reset(module, reset):
            sources |= dict.fromkeys(names, LAYER)
    originals = dict(base.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if recipe is not None and recipe.replay(name, parameter):
                sources[name] = CONSTRUCTOR
            elif name not in sources:
                _match(parameter, originals[name])
                sources[name] = MATCHED
    return sources


def _reset(module: nn.Module, reset: Callable[[], object]) -> bool:
    """Call a module's own initialisation; False, with shapes as they were, if it does not fit.

    A user's code may check sizes that it keeps in attributes, or make tensors of these sizes.
    """
    owners = [
        (m, name, p, p.data)
        for m in module.modules()
        for name, p in parameter_slots(m).items()
        if p is not None
    ]
    try:
        reset()
    except Exception:  # whatever a layer raises that was made for another width
        fits = False
    else:
        fits = all(
            (new := parameter_slots(owner)[name]) is not None and new.shape == data.shape
            for owner, name, _, data in owners
        )
    if not fits:
        for owner, name, parameter, data in owners:
            parameter.data = data
            parameter_slots(owner)[name] = parameter
    return fits


def surely_drawn(model: nn.Module, recipe: Recipe | None) -> frozenset[str]:
    """Names of parameters that `draw` fills whatever they hold, so that they may come empty."""
    if callable(getattr(model, "reset_parameters", None)):
        return frozenset()
    weights = (
        f"{prefix}.weight".lstrip(".")
        for prefix, module in model.named_modules()
        if _is_stock(module) and "weight" in parameter_slots(module)
    )
    return frozenset(weights).union(() if recipe is None else recipe.calls)


def _is_stock(module: nn.Module) -> bool:
    return getattr(type(module), "reset_parameters", None) in _STOCK_RESETS


def _draws_all(recipe: Recipe | None, names: list[str]) -> bool:
    return recipe is not None and all(name in recipe.calls for name in names)


def _match(parameter: Tensor, original: Tensor) -> None:
    values = original.detach().double()
    mean = float(values.mean())
    deviation = float(values.std(correction=0))
    if deviation > _CLOSE * abs(mean):
        parameter.normal_(mean, deviation)
    else:
        parameter.fill_(mean)


def _fans(shape: torch.Size) -> tuple[int, int]:
    """Fan in and fan out of a weight of at least two axes."""
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive
