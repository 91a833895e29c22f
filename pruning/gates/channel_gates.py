"""Gates: multipliers on the channels of any network, applied where they are consumed.

A gate of one changes nothing, a gate of zero is a removed channel, to the last bit of meaning:
surgery removes a channel wherever a layer consumes it, and there the gate acts. Where the channels
of two activations meet in a product (queries and keys, a kernel computed from the input), it
acts on one of them, once. Behind a batch normalisation followed by ReLU and pooling this is the
same function, with the same gradient, as a gate right behind the batch normalisation, since both
pass positive factors on; with other activations it is the gate whose zero is the removal.

A `Placement` may also put gates on the outputs of convolutions, before normalisation, and give each
convolution its own.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3 (gates z = 1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.errors import CriterionError
from pruning.gates.gated_calls import Gate, GatedCalls, ProductSite, Site
from pruning.gates.placement import CONSUMED, Placement
from pruning.gates.recomputation import recomputing
from pruning.graph.call_sites import CallSite
from pruning.graph.channel_graph import NO_GROUP, ChannelGraph, TensorAxis, layer_of
from pruning.networks.wrappers import unwrapped
from pruning.selection import KeepPlan

_Sites = TypeVar("_Sites")


class ChannelGates:
    """One gate per unit of each gated group of a network; all gates in one vector of length U.

    model: runs as it is; nothing is added to it and its parameters may change meanwhile. Of a
        wrapped one `model` is the network inside, which is what must run while gates are on.
    graph: the trace of a network with the same parameter names.
    groups: names of prunable groups; all of them if None.
    placement: where gates act, and whether the convolutions of a stream share theirs. Those on
        outputs are no removal: what batch normalisation adds behind them goes on.
    Raises CriterionError if there is nothing to gate, and for a group that has no gates there.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        groups: Iterable[str] | None = None,
        placement: Placement = CONSUMED,
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
        self.placement = placement
        self._owners = {name: self._owners_of(name) for name in self.names}
        keys = [(name, owner) for name in self.names for owner in self._keys(name)]
        sizes = [graph.group(name).num_units for name, _ in keys]
        self.num_units = sum(sizes)
        ends = np.cumsum(sizes).tolist()
        self._slices = {
            key: slice(end - size, end) for key, size, end in zip(keys, sizes, ends, strict=True)
        }
        self._sites, self._products = self._find_sites()
        self._outputs = self._find_outputs()

    def on(self, model: nn.Module) -> ChannelGates:
        """The same gates, on another network whose parameters have the same names and shapes."""
        result = copy.copy(self)
        result.model = model
        return result

    @property
    def sites(self) -> Mapping[str, Sequence[Site]]:
        """Per parameter, by name, where gates act along it; each multiplies a part of it.

        Of gates on outputs those are the weights and biases that make them.
        """
        sites: dict[str, Sequence[Site]] = dict(self._sites)
        biases = {name for name, _ in self.model.named_parameters() if name.endswith(".bias")}
        for weight, site in self._outputs.items():
            sites[weight] = (*sites.get(weight, ()), site)
            if (bias := weight.removesuffix("weight") + "bias") in biases:
                sites[bias] = (*sites.get(bias, ()), Site(0, site.units))
        return sites

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all gates (…×U) as one tensor per group (…×units).

        Views of it, unless convolutions have gates of their own: then sums over them.
        """
        parts: dict[str, Tensor] = {}
        for (name, _), place in self._slices.items():
            part = values[..., place]
            parts[name] = parts[name] + part if name in parts else part
        return parts

    def by_layer(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all gates (…×U) as one tensor per set of gates (…×units), views of it.

        By the name of the group, or of the convolution where it has gates of its own.
        """
        owners = [owner for _, owner in self._slices]
        return {
            (owner or name) if owners.count(owner) == 1 or not owner else f"{name}/{owner}": values[
                ..., place
            ]
            for (name, owner), place in self._slices.items()
        }

    def start(self, name: str, layer: str) -> int | None:
        """Where the gates begin that what this layer produces of a group has; None for none."""
        place = self._slices.get((name, "")) or self._slices.get((name, layer))
        return None if place is None else place.start

    def by_channel(self, values: Tensor) -> dict[str, Tensor]:
        """A vector over all gates (U) as one value per channel, shape (width,) per group."""
        return {
            name: units[torch.from_numpy(self.graph.group(name).unit_of_channel).to(units.device)]
            for name, units in self.by_group(values).items()
        }

    def joined(self, units: Mapping[str, Tensor]) -> Tensor:
        """Values per group (units,) as one vector over all gates, what `by_group` takes apart."""
        return torch.cat([units[name] for name, _ in self._slices])

    def mask(self, plan: KeepPlan) -> Tensor:
        """Ones for the units that `plan` keeps, zeros for the others: float32, shape (U,)."""
        kept = plan.units_kept(self.graph)
        return self.joined({name: torch.from_numpy(kept[name]) for name in self.names}).float()

    @contextmanager
    def multiplying(self, values: Tensor) -> Iterator[None]:
        """While this is open, the network's channels are multiplied by `values`.

        values: shape (U,), or (N, U) with a gate per sample of a minibatch of N. Gradients flow
            to it, twice if asked for. A layer whose first axis mixes samples otherwise than
            sample by sample gets the mean over samples.
        """

        with_one = torch.cat([values, values.new_ones((*values.shape[:-1], 1))], dim=-1)

        def gate(tensor: Tensor, site: Site, axis: int, *, has_samples: bool) -> Tensor:
            chosen = with_one[..., site.units_on(values.device)]
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
            place = _ProbeSite(site.units_on(tensor.device), axis, has_samples and axis > 0)
            result: Tensor = _Probed.apply(tensor, place, probe)
            return result

        with self._gating(gate, lambda: None):
            yield probe

    @contextmanager
    def _gating(self, gate: Gate, on_reentrant: Callable[[], None]) -> Iterator[None]:
        calls = GatedCalls(
            self.model,
            self._by_id(self._sites),
            self._products,
            gate,
            outputs=self._by_id(self._outputs),
        )
        with recomputing(calls.again, on_reentrant), calls.running():
            yield

    def _find_sites(self) -> tuple[dict[str, list[Site]], dict[CallSite, list[ProductSite]]]:
        """Per parameter the axes that consume gated channels, and per call its activations.

        Channels that meet inside a call, out of sight, are gated where they are produced: in
        one of the two activations, if it is known by which weights.
        """
        offsets = np.full(len(self.graph.groups) + 1, -1, dtype=np.int64)
        for name in self.names:
            if not self._owners[name]:
                offsets[self.graph.index(name)] = self._slices[name, ""].start

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
        for axis in (axis for product in self.graph.products for axis in product.weights):
            if (units := units_at(axis.groups, axis.units)) is not None:
                sites.setdefault(axis.tensor, []).append(Site(axis.axis, units))
        return sites, products

    def _owners_of(self, name: str) -> tuple[str, ...]:
        """The layers on whose outputs the gates of a group act; none where it is consumed."""
        if self.placement == CONSUMED:
            return ()
        group = self.graph.group(name)
        if not self.placement.fits(self.model, group):
            raise CriterionError(
                f"group {name!r} has no gates on outputs: {' or '.join(group.producers)} is no "
                "convolution or linear layer as torch runs it; gate channels where they are "
                "consumed, or name the groups to be judged"
            )
        return self.placement.owners(self.model, group)

    def _keys(self, name: str) -> tuple[str, ...]:
        """Whose gates a group has: its own, or those of each of its convolutions."""
        owners = self._owners[name]
        return owners if self.placement.per == "convolution" and owners else ("",)

    def _find_outputs(self) -> dict[str, Site]:
        """Per weight the gates on what it puts out."""
        sites: dict[str, Site] = {}
        for axis in self.graph.axes:
            layer = layer_of(axis.tensor)
            if axis.is_input or axis.tensor != f"{layer}.weight":
                continue
            units = np.full(len(axis.groups), self.num_units, dtype=np.int64)
            for name, owners in self._owners.items():
                here = axis.groups == self.graph.index(name)
                if layer in owners and here.any():
                    units[here] = self._start_of(name, layer) + axis.units[here]
            if (units < self.num_units).any():
                sites[axis.tensor] = Site(axis.axis, torch.from_numpy(units))
        return sites

    def _start_of(self, name: str, layer: str) -> int:
        start = self.start(name, layer)
        assert start is not None, (name, layer)
        return start

    def _check_reachable(self, consumed: frozenset[int]) -> None:
        """Raise CriterionError for channels that gates reach in one place but not in another."""
        for product in self.graph.products:
            if not product.is_reachable:
                for number in consumed.intersection(product.groups.tolist()):
                    name = self.graph.groups[number].name
                    if name in self.names and not self._owners[name]:
                        raise CriterionError(
                            f"group {name!r} cannot be gated: a call of {product.call.function} "
                            "multiplies its channels with each other out of sight; name the groups "
                            "to be judged without it"
                        )

    def _by_id(self, sites: Mapping[str, _Sites]) -> dict[int, _Sites]:
        """By the parameters themselves; CriterionError for a network that lacks one."""
        parameters = dict(self.model.named_parameters())
        missing = [name for name in sites if name not in parameters]
        if missing:
            raise CriterionError(
                f"{type(self.model).__name__} has no parameter {missing[0]!r}: "
                "trace this network again"
            )
        return {id(parameters[name]): value for name, value in sites.items()}


def consumed_groups(graph: ChannelGraph) -> frozenset[int]:
    """The groups whose channels end in weights or in products that gates can reach."""
    ends = [axis.groups for axis in graph.axes if axis.is_input]
    ends += [product.groups for product in graph.products if product.is_reachable]
    return frozenset(number for groups in ends for number in np.unique(groups).tolist())


def producing(axis: TensorAxis, graph: ChannelGraph) -> set[int]:
    """The groups that the layer of this axis, not an input axis, is a producer of."""
    return {
        number
        for number in np.unique(axis.groups[axis.groups >= 0]).tolist()
        if layer_of(axis.tensor) in graph.groups[number].producers
    }


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
