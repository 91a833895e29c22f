"""Gates: multipliers on the channels of any network, applied where its weights consume them.

A gate of one changes nothing, a gate of zero is a removed channel, to the last bit of meaning:
surgery removes a channel wherever a layer consumes it, and there the gate acts. Behind a batch
normalisation followed by ReLU and pooling this is the same function, with the same gradient,
as a gate right behind the batch normalisation, since both pass positive factors on; with other
activations it is the gate whose zero is the removal.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3 (gates z = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pruning.channel_graph import ChannelGraph
from pruning.errors import CriterionError
from pruning.selection import KeepPlan
from pruning.wrappers import unwrapped

_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_TRANSPOSED = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}
_PARAMETER = "gated_parameter"  # on a gated parameter: itself, so that gates can be nested
_UNGATED = frozenset(
    {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, torch.numel}
    | {torch.autograd.grad, torch.autograd.backward, Tensor.backward}
)
"""Calls that ask about a parameter and compute nothing with it."""


@dataclass(frozen=True)
class Site:
    """One axis of a parameter along which gates act.

    axis: of the parameter.
    units: per position along it, which gate; `num_units` of the gates means none.
    """

    axis: int
    units: Tensor


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
        self._sites = self._find_sites()

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

        with _GatedCalls(self._resolved(), gate):
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

        with _GatedCalls(self._resolved(), gate):
            yield probe

    def _find_sites(self) -> dict[str, list[Site]]:
        """Per parameter the axes that consume gated channels.

        Channels that no weight consumes meet other activations in a matrix product: their
        producers are gated instead.
        """
        offsets = np.full(len(self.graph.groups) + 1, -1, dtype=np.int64)
        for name in self.names:
            offsets[self.graph.index(name)] = self._slices[name].start
        consumed = {
            number
            for axis in self.graph.axes
            if axis.is_input
            for number in np.unique(axis.groups).tolist()
        }
        sites: dict[str, list[Site]] = {}
        for axis in self.graph.axes:
            is_here = np.array([(n in consumed) == axis.is_input for n in axis.groups.tolist()])
            gated = is_here & (offsets[axis.groups] >= 0) & (axis.groups >= 0)
            if gated.any():
                units = np.where(gated, offsets[axis.groups] + axis.units, self.num_units)
                sites.setdefault(axis.tensor, []).append(Site(axis.axis, torch.from_numpy(units)))
        return sites

    def _resolved(self) -> dict[int, list[Site]]:
        parameters = dict(self.model.named_parameters())
        missing = [name for name in self._sites if name not in parameters]
        if len(missing) == len(self._sites):
            raise CriterionError(
                f"{type(self.model).__name__} has no parameter {missing[0]!r}: "
                "trace this network again"
            )
        return {id(parameters[n]): sites for n, sites in self._sites.items() if n in parameters}


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
    layer, and in any other call the parameter itself."""

    def __init__(self, sites: Mapping[int, Sequence[Site]], gate: Gate) -> None:
        super().__init__()
        self._sites = sites
        self._gate = gate

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != "__get__" and func not in _UNGATED:
            args, kwargs = self._gated(func, args, kwargs)
        return func(*args, **kwargs)

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
