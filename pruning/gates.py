"""Gates: multipliers on the channels of any network, applied where they are consumed.

A gate of one changes nothing, a gate of zero is a removed channel, to the last bit of meaning:
surgery removes a channel wherever a layer consumes it, and there the gate acts. Where the channels
of two activations meet in a product (queries and keys, a kernel computed from the input), it
acts on one of them, once. Behind a batch
normalisation followed by ReLU and pooling this is the same function, with the same gradient,
as a gate right behind the batch normalisation, since both pass positive factors on; with other
activations it is the gate whose zero is the removal.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3 (gates z = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pruning.call_sites import CallSite, CallSites
from pruning.channel_graph import NO_GROUP, ChannelGraph
from pruning.errors import CriterionError
from pruning.recomputation import recomputing
from pruning.selection import KeepPlan
from pruning.wrappers import uncompiled, unwrapped

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


@dataclass(frozen=True)
class ProductSite:
    """An activation that is gated where it meets another one: the place among a call's leaves."""

    argument: int
    site: Site


class ChannelGates:
    """One gate per unit of each gated group of a network; all gates in one vector of length U.

    model: runs as it is; nothing is added to it and its parameters may change meanwhile. Of a
        wrapped one `model` is the network inside, which is what must run while gates are on.
    graph: the trace of a network with the same parameter names.
    groups: names of prunable groups; all of them if None.
    Raises CriterionError if there is nothing to gate.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, groups: Iterable[str] | None = None
    ) -> None:
        prunable = [group.name for group in graph.prunable]
        names = prunable if groups is None else [graph.group(name).name for name in groups]
        if not names:
            raise CriterionError("this network has no prunable channel group: nothing to gate")
        self.model = unwrapped(model)
        self.graph = graph
        self.names = tuple(sorted(names, key=graph.index))
        for name in self.names:
            if (reason := graph.group(name).pinned) is not None:
                raise CriterionError(f"group {name!r} cannot be gated, it is pinned: {reason}")
        sizes = [graph.group(name).num_units for name in self.names]
        self.num_units = sum(sizes)
        ends = np.cumsum(sizes).tolist()
        self._slices = {
            name: slice(end - size, end)
            for name, size, end in zip(self.names, sizes, ends, strict=True)
        }
        self._sites, self._products = self._find_sites()

    @property
    def sites(self) -> Mapping[str, Sequence[Site]]:
        """Per parameter, by name, where gates act along it; each multiplies a part of it."""
        return self._sites

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all gates (…×U) as one tensor per group (…×units)."""
        return {name: values[..., place] for name, place in self._slices.items()}

    def by_channel(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all gates (U) as one value per channel, shape (width,) per group."""
        return {
            name: units[torch.from_numpy(self.graph.group(name).unit_of_channel).to(units.device)]
            for name, units in self.by_group(values).items()
        }

    def joined(self, units: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `by_group`: values per group (units,) as one vector over all gates."""
        return torch.cat([units[name] for name in self.names])

    def mask(self, plan: KeepPlan) -> Tensor:
        """Ones for the units that `plan` keeps, zeros for the others: float32, shape (U,)."""
        kept = plan.units_kept(self.graph)
        return torch.cat([torch.from_numpy(kept[name]) for name in self.names]).float()

    @contextmanager
    def multiplying(self, values: Tensor) -> Iterator[None]:
        """While this is open, the network's channels are multiplied by `values`.

        values: shape (U,), or (N, U) with a gate per sample of a minibatch of N. Gradients flow
            to it, twice if asked for. A layer whose first axis mixes samples otherwise than
            sample by sample gets the mean over samples.
        """

        def gate(tensor: Tensor, site: Site, axis: int, *, has_samples: bool) -> Tensor:
            one = values.new_ones((*values.shape[:-1], 1))
            chosen = torch.cat([values, one], dim=-1)[..., site.units.to(values.device)]
            return tensor * _aligned(chosen.to(tensor.dtype), tensor, axis, has_samples=has_samples)

        def refuse() -> None:
            if values.grad_fn is not None:
                raise CriterionError(
                    "gates that are computed from what is learned need gradient checkpointing "
                    "without re-entry: pass use_reentrant=False to torch.utils.checkpoint"
                )

        with self._gating(gate, refuse):
            yield

    @contextmanager
    def probing(self, num_samples: int) -> Iterator[GateProbe]:
        """While this is open, a forward and backward pass leaves the gates' gradients behind.

        The gates are one, so that the network computes what it always does, at the cost of one
        product and sum per consumed activation in the backward pass.
        num_samples: N of the minibatch.
        """
        like = next(self.model.parameters())
        exact = torch.promote_types(like.dtype, torch.float32)
        shape = (num_samples, self.num_units + 1)
        probe = GateProbe(torch.zeros(shape, device=like.device, dtype=exact))

        def gate(tensor: Tensor, site: Site, axis: int, *, has_samples: bool) -> Tensor:
            place = _ProbeSite(site.units.to(tensor.device), axis, has_samples and axis > 0)
            result: Tensor = _Probed.apply(tensor, place, probe)
            return result

        with self._gating(gate, lambda: None):
            yield probe

    @contextmanager
    def _gating(self, gate: Gate, on_reentrant: Callable[[], None]) -> Iterator[None]:
        calls = _GatedCalls(self.model, self._resolved(), self._products, gate)
        with recomputing(calls.again, on_reentrant), calls.running():
            yield

    def _find_sites(self) -> tuple[dict[str, list[Site]], dict[CallSite, list[ProductSite]]]:
        """Per parameter the axes that consume gated channels, and per call its activations.

        Channels that meet inside a call, out of sight, are gated where they are produced.
        """
        offsets = np.full(len(self.graph.groups) + 1, -1, dtype=np.int64)
        for name in self.names:
            offsets[self.graph.index(name)] = self._slices[name].start

        def units_at(groups: NDArray[np.int32], units: NDArray[np.int32]) -> Tensor | None:
            gated = (groups >= 0) & (offsets[groups] >= 0)
            places = np.where(gated, offsets[groups] + units, self.num_units)
            return torch.from_numpy(places) if gated.any() else None

        products: dict[CallSite, list[ProductSite]] = {}
        for product in self.graph.products:
            units = units_at(product.groups, product.units)
            if units is not None and product.argument is not None:
                site = ProductSite(product.argument, Site(product.axis, units))
                products.setdefault(product.call, []).append(site)
        consumed = consumed_groups(self.graph)
        self._check_reachable(consumed)
        sites: dict[str, list[Site]] = {}
        for axis in self.graph.axes:
            here = np.array([(n in consumed) == axis.is_input for n in axis.groups.tolist()])
            units = units_at(np.where(here, axis.groups, NO_GROUP), axis.units)
            if units is not None:
                sites.setdefault(axis.tensor, []).append(Site(axis.axis, units))
        return sites, products

    def _check_reachable(self, consumed: frozenset[int]) -> None:
        """Raise CriterionError for channels that gates reach in one place but not in another."""
        for product in self.graph.products:
            if product.argument is None:
                for number in consumed.intersection(product.groups.tolist()):
                    if (name := self.graph.groups[number].name) in self.names:
                        raise CriterionError(
                            f"group {name!r} cannot be gated: a call of {product.call.function} "
                            "multiplies its channels with each other out of sight; name the groups "
                            "to be judged without it"
                        )

    def _resolved(self) -> dict[int, list[Site]]:
        parameters = dict(self.model.named_parameters())
        missing = [name for name in self._sites if name not in parameters]
        if missing:
            raise CriterionError(
                f"{type(self.model).__name__} has no parameter {missing[0]!r}: "
                "trace this network again"
            )
        return {id(parameters[name]): sites for name, sites in self._sites.items()}


def consumed_groups(graph: ChannelGraph) -> frozenset[int]:
    """The groups whose channels end in weights or in products that gates can reach."""
    ends = [axis.groups for axis in graph.axes if axis.is_input]
    ends += [product.groups for product in graph.products if product.argument is not None]
    return frozenset(number for groups in ends for number in np.unique(groups).tolist())


class GateProbe:
    """Gradients of the loss with respect to gates of one, filled by the backward pass."""

    def __init__(self, gradients: Tensor) -> None:
        self._gradients = gradients

    @property
    def gradients(self) -> Tensor:
        """∂E/∂z per sample and gate, shape (N, U); their sum over N is that of the minibatch."""
        return self._gradients[:, :-1]

    def add(self, products: Tensor, units: Tensor) -> None:
        """Add gradient · activation, R×C for R rows of all samples, or (C,) for all together."""
        rows = len(self._gradients)
        if products.dim() == 1 or len(products) % rows:
            products = (products if products.dim() == 1 else products.sum(0)).expand(
                rows, -1
            ) / rows
        else:
            products = products.reshape(rows, -1, products.shape[-1]).sum(1)
        self._gradients.index_add_(1, units, products.to(self._gradients.dtype))


class Gated(nn.Module):
    """`model` with its channels multiplied by a mask: removed channels without surgery.

    The mask, shape (U,), is a buffer: it moves and is saved with the module.
    """

    mask: Tensor

    def __init__(self, gates: ChannelGates) -> None:
        super().__init__()
        self.model = gates.model
        self.gates = gates
        self.register_buffer("mask", torch.ones(gates.num_units))

    def exchange(self, gates: ChannelGates) -> None:
        """Put another network with its gates, all of them open, in place of the present one."""
        self.model, self.gates = gates.model, gates
        self.mask = torch.ones(gates.num_units, device=self.mask.device)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with self.gates.multiplying(self.mask):
            return self.model(*inputs, **named)


Gate = Callable[..., Tensor]


class _GatedCalls(TorchFunctionMode):
    """Hands what a gated parameter meets to `gate`: the input of a convolution or a linear
    layer, and in any other call the parameter itself; and one of two activations that meet."""

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[int, Sequence[Site]],
        products: Mapping[CallSite, Sequence[ProductSite]],
        gate: Gate,
    ) -> None:
        super().__init__()
        self._model = model
        self._sites = sites
        self._products = products
        self._gate = gate
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
            modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
            if not any(mode is self for mode in modes):
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
        if self._products:
            for product in self._products.get(self._calls.next(func), ()):
                args, kwargs = self._with_gated_argument(product, args, kwargs)
        if func in _READERS or (
            getattr(func, "__name__", "") != "__get__" and func not in _UNGATED
        ):
            args, kwargs = self._gated(func, args, kwargs)
        return func(*args, **kwargs)

    def _with_gated_argument(self, product: ProductSite, args: Any, kwargs: Any) -> tuple[Any, Any]:
        leaves, structure = tree_flatten((args, kwargs))
        site, tensor = product.site, leaves[product.argument]
        if not isinstance(tensor, Tensor) or tensor.shape[site.axis] != len(site.units):
            raise CriterionError(
                f"{type(self._model).__name__} calls something else than when it was traced: "
                "trace it again, in one piece and with the same kind of input"
            )
        with torch._C.DisableTorchFunction():  # or an outer mode would gate the gating
            leaves[product.argument] = self._gate(tensor, site, site.axis, has_samples=True)
        args, kwargs = tree_unflatten(leaves, structure)
        return args, kwargs

    def _gated(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        found, skipped = _consumption(func, args, kwargs), None
        if found is not None:
            skipped = found.weight_axis
            for site in self._sites_on(found.weight):
                if site.axis == skipped:
                    args, kwargs = self._with_gated_input(found, site, args, kwargs)
        everything = tree_map(lambda value: self._gated_parameter(value, skipped), [args, kwargs])
        return everything[0], everything[1]

    def _with_gated_input(
        self, found: _Consumption, site: Site, args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        whole = Site(site.axis, site.units.repeat(found.repeats))
        with torch._C.DisableTorchFunction():  # or an outer mode would gate the gating
            gated = self._gate(found.input, whole, found.input_axis, has_samples=True)
        return ((gated, *args[1:]), kwargs) if args else (args, kwargs | {"input": gated})

    def _gated_parameter(self, value: Any, skipped_axis: int | None) -> Any:
        parameter = getattr(value, _PARAMETER, value)
        for site in self._sites_on(value):
            if site.axis != skipped_axis:
                with torch._C.DisableTorchFunction():  # as above
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


def _consumption(func: Any, args: Any, kwargs: Any) -> _Consumption | None:
    spatial = _CONVOLUTIONS.get(func, _TRANSPOSED.get(func))
    if spatial is None and func is not F.linear:
        return None
    input = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    if spatial is None:
        return _Consumption(input, weight, input.dim() - 1, 1, 1)
    axis = input.dim() - spatial - 1
    if func in _TRANSPOSED:
        return _Consumption(input, weight, axis, 0, 1)
    return _Consumption(input, weight, axis, 1, input.shape[axis] // weight.shape[1])


def _aligned(values: Tensor, tensor: Tensor, axis: int, *, has_samples: bool) -> Tensor:
    """`values`, (C,) or (N, C), in a shape that multiplies `tensor` along its samples and axis."""
    if values.dim() == 2 and (not has_samples or axis == 0 or tensor.shape[0] % len(values)):
        values = values.mean(0)
    shape = [1] * tensor.dim()
    shape[axis] = values.shape[-1]
    if values.dim() == 2:
        values = values.repeat_interleave(tensor.shape[0] // len(values), dim=0)
        shape[0] = len(values)
    return values.reshape(shape)


@dataclass(frozen=True)
class _ProbeSite:
    """Where a probe sits on a tensor, and whether that has a row per sample."""

    units: Tensor
    axis: int
    has_samples: bool


class _Probed(torch.autograd.Function):
    """The identity; its backward pass adds gradient · activation to a GateProbe."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, site: _ProbeSite, probe: GateProbe) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.site, ctx.probe = site, probe
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (tensor,), (gradient,), site = ctx.saved_tensors, gradients, ctx.site
        kept = {site.axis, 0} if site.has_samples else {site.axis}
        others = [axis for axis in range(tensor.dim()) if axis not in kept]
        products = gradient * tensor
        ctx.probe.add(products.sum(others) if others else products, site.units)
        return gradient, None, None
