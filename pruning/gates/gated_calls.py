"""Calls of torch's functions, with gates on the channels that they consume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.errors import CriterionError
from pruning.graph.call_sites import CallSite, CallSites
from pruning.networks.torch_interior import (
    DisableTorchFunction,
    function_modes,
    tree_flatten,
    tree_map,
    tree_unflatten,
)
from pruning.networks.wrappers import uncompiled

_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_TRANSPOSED = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}
_PARAMETER = "gated_parameter"  # on a gated parameter: itself, so that gates can be nested
_UNGATED = frozenset(
    {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, torch.numel}
    | {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
)
"""Calls that ask about a parameter and compute nothing with it."""
_READERS = frozenset(
    getattr(Tensor, name).__get__ for name in ("data", "T", "mT", "H", "mH", "real")
)
"""Attributes that are the values of a parameter; others only tell about it."""


@dataclass(frozen=True)
class Site:
    """One axis of a tensor along which gates act.

    axis: of the tensor.
    units: per position along it, which gate; `num_units` of the gates means none.
    """

    axis: int
    units: Tensor
    _copies: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def units_on(self, device: torch.device) -> Tensor:
        """`units`, copied to a device once: a copy in every run would make the host wait."""
        if device not in self._copies:
            self._copies[device] = self.units.to(device)
        units: Tensor = self._copies[device]
        return units

    def repeated(self, times: int) -> Site:
        """The same gates on each of so many parts along the axis."""
        if times == 1:
            return self
        if times not in self._copies:
            self._copies[times] = Site(self.axis, self.units.repeat(times))
        site: Site = self._copies[times]
        return site


@dataclass(frozen=True)
class ProductSite:
    """An activation that is gated where it meets another one: the place among a call's leaves."""

    argument: int
    site: Site


Gate = Callable[..., Tensor]
"""(tensor, site, axis, has_samples=…) → the tensor with gates along this axis of it."""


class GatedCalls(TorchFunctionMode):
    """Hands what a gated parameter meets to `gate`: the input of a convolution or a linear
    layer, and in any other call the parameter itself; and one of two activations that meet.

    outputs: of weights of convolutions and linear layers, by id, what is gated that they put out.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[int, Sequence[Site]],
        products: Mapping[CallSite, Sequence[ProductSite]],
        gate: Gate,
        *,
        outputs: Mapping[int, Site],
    ) -> None:
        super().__init__()
        self._model = model
        self._sites = sites
        self._products = products
        self._gate = gate
        self._outputs = outputs
        self._calls, self._is_following = CallSites(), False

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open, calls are gated; it may be opened inside itself."""
        with ExitStack() as stack:
            stack.enter_context(uncompiled(self._model))  # calls in compiled code pass unseen
            if self._products and not self._is_following:
                stack.enter_context(self._calls.following(self._model))
                self._is_following = True
                stack.callback(setattr, self, "_is_following", False)
            if not any(mode is self for mode in function_modes()):
                stack.enter_context(self)
            yield

    def again(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which is called now, for the backward pass to call again: gated, too."""
        place = self._calls.place()

        def gated(*args: Any, **kwargs: Any) -> Any:
            with self._calls.back_at(place), self.running():
                return function(*args, **kwargs)

        return gated

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        weight = _weight(func, args, kwargs) if self._outputs else None
        if self._products:
            for product in self._products.get(self._calls.next(func), ()):
                args, kwargs = self._with_gated_argument(product, args, kwargs)
        if func in _READERS or (
            getattr(func, "__name__", "") != "__get__" and func not in _UNGATED
        ):
            args, kwargs = self._gated(func, args, kwargs)
        result = func(*args, **kwargs)
        site = self._outputs.get(id(getattr(weight, _PARAMETER, weight)))
        if site is None:
            return result
        axis = result.dim() - 1 - _spatial_axes(func)
        with DisableTorchFunction():  # or an outer mode would gate the gating
            return self._gate(result, site, axis, has_samples=True)

    def _with_gated_argument(self, product: ProductSite, args: Any, kwargs: Any) -> tuple[Any, Any]:
        leaves, structure = tree_flatten((args, kwargs))
        site, tensor = product.site, leaves[product.argument]
        if not isinstance(tensor, Tensor) or tensor.shape[site.axis] != len(site.units):
            raise CriterionError(
                f"{type(self._model).__name__} calls something else than when it was traced: "
                "trace it again, in one piece and with the same kind of input"
            )
        with DisableTorchFunction():  # or an outer mode would gate the gating
            leaves[product.argument] = self._gate(tensor, site, site.axis, has_samples=True)
        args, kwargs = tree_unflatten(leaves, structure)
        return args, kwargs

    def _gated(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        consumption, skipped = _consumption(func, args, kwargs), None
        if consumption is not None:
            skipped = consumption.weight_axis
            for site in self._sites_on(consumption.weight):
                if site.axis == skipped:
                    args, kwargs = self._with_gated_input(consumption, site, args, kwargs)
        everything = tree_map(lambda value: self._gated_parameter(value, skipped), [args, kwargs])
        return everything[0], everything[1]

    def _with_gated_input(
        self, consumption: _Consumption, site: Site, args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        whole = site.repeated(consumption.repeats)
        with DisableTorchFunction():  # or an outer mode would gate the gating
            gated = self._gate(consumption.input, whole, consumption.input_axis, has_samples=True)
        return ((gated, *args[1:]), kwargs) if args else (args, kwargs | {"input": gated})

    def _gated_parameter(self, value: Any, skipped_axis: int | None) -> Any:
        parameter = getattr(value, _PARAMETER, value)
        for site in self._sites_on(value):
            if site.axis != skipped_axis:
                with DisableTorchFunction():  # as above
                    value = self._gate(value, site, site.axis, has_samples=False)
                setattr(value, _PARAMETER, parameter)
        return value

    def _sites_on(self, value: Any) -> Sequence[Site]:
        return self._sites.get(id(getattr(value, _PARAMETER, value)), ())


@dataclass(frozen=True)
class _Consumption:
    """A call in which a weight consumes the channels of an activation.

    repeats: groups of the convolution; each sees its part of the input through the same axis.
    """

    input: Tensor
    weight: Tensor
    input_axis: int
    weight_axis: int
    repeats: int


def _spatial_axes(func: Any) -> int:
    """How many axes of its input and output a convolution has behind the channels; 0 if linear."""
    return _CONVOLUTIONS.get(func, _TRANSPOSED.get(func, 0))


def _weight(func: Any, args: Any, kwargs: Any) -> Any:
    """The weight of a convolution or linear layer that is called, None for other functions."""
    if func is not F.linear and not _spatial_axes(func):
        return None
    return args[1] if len(args) > 1 else kwargs["weight"]


def _consumption(func: Any, args: Any, kwargs: Any) -> _Consumption | None:
    if (weight := _weight(func, args, kwargs)) is None:
        return None
    input = args[0] if args else kwargs["input"]
    axis = input.dim() - 1 - _spatial_axes(func)
    if func is F.linear:
        return _Consumption(input, weight, axis, 1, 1)
    if func in _TRANSPOSED:
        return _Consumption(input, weight, axis, 0, 1)
    return _Consumption(input, weight, axis, 1, input.shape[axis] // weight.shape[1])
