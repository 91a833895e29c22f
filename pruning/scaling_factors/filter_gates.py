"""Learnable gates on the channels of a network that has gated structures as well.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
§3.1. The paper multiplies a filter's output; gates may act there, or where weights consume the
channel (see pruning.gates.placement). Either way they can be folded into weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.cost import ExampleInput
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates, consumed_groups, producing
from pruning.gates.gated_calls import Site
from pruning.gates.placement import Placement
from pruning.graph.channel_graph import NO_GROUP, ChannelGraph, TensorAxis
from pruning.restrictions import Restrictions
from pruning.rules import Offered
from pruning.scaling_factors.gated_structures import GatedStructures
from pruning.scaling_factors.gating import Gating
from pruning.selection import KeepPlan
from pruning.structure_removal.structures import Structure
from pruning.tracing import whole_trace

_MODEL = "model."

_Acting = tuple[TensorAxis, NDArray[np.bool_], NDArray[np.int64]]
"""An axis, the positions along it at which gates may act, and the gate at each: U for none."""


class FilterGates(nn.Module):
    """A gate φ per unit of the prunable groups of a network; U of them in one vector.

    gated: the network; the 1×1 convolutions of its added shortcuts are gated where they read.
    residual: whether channels along residual streams are gated.
    offered: as of a graph.
    restrictions: of the network; its channels that may not go have no gates.
    gating: what gates learn, where they act, and on which layers.

    Channels of activations that meet each other (queries and keys) are left alone: no weight
    reads them that a gate could be folded into. On outputs, only channels of convolutions and
    linear layers have gates.
    generator: draws the first values.
    Raises CriterionError if there is no such group.
    """

    def __init__(
        self,
        gated: GatedStructures,
        example_input: ExampleInput,
        generator: torch.Generator,
        *,
        residual: bool,
        offered: Offered,
        restrictions: Restrictions | None = None,
        gating: Gating,
    ) -> None:
        super().__init__()
        self._gating, placement = gating, Placement(gating.at)
        inside = (restrictions or Restrictions()).inside(_MODEL.rstrip("."))
        with gated.listening():
            graph = inside.of(whole_trace(gated, example_input, offered))
        meeting = {number for product in graph.products for number in product.groups.tolist()}
        names = [
            group.name
            for group in graph.prunable
            if group.name.startswith(_MODEL)
            and (residual or not group.residual)
            and graph.index(group.name) not in meeting
            and placement.fits(gated, group)
            and gating.allows("filter", [p.removeprefix(_MODEL) for p in group.producers])
        ]
        if not names:
            patterns = gating.only.get("filter")
            why = f"none that {' or '.join(patterns)} fits" if patterns else "no channels"
            raise CriterionError(f"this network has no filter to gate: {why} can be removed")
        self.channels = ChannelGates(gated, graph, names)
        self.gates = ChannelGates(gated, graph, names, placement)
        first = gating.first(self.gates.num_units, next(gated.parameters()), generator)
        self.learned = nn.Parameter(first)
        self._mask: Tensor | None = None
        self._read: Tensor | None = None
        self._is_settled = False

    @property
    def values(self) -> Tensor:
        """φ, shape (U,); those that are closed are 0, and all others 1 once they are settled."""
        values = self._gating.factor(self.learned)
        if self._mask is None:
            return values
        mask = self._mask.to(values)
        return mask if self._is_settled else values * mask

    @property
    def by_group(self) -> dict[str, Tensor]:
        """φ per group, shape (units,), by the names of the network's own groups."""
        groups = self.channels.by_group(self.values)
        return {name.removeprefix(_MODEL): values for name, values in groups.items()}

    @property
    def layers(self) -> frozenset[str]:
        """The layers whose filters have a gate, by their names in the network."""
        layers = self.channels.graph.pruning(self.channels.names).pruned_layers or frozenset()
        return frozenset(layer.removeprefix(_MODEL) for layer in layers)

    @contextmanager
    def multiplying(self) -> Iterator[None]:
        """While this is open, the network runs with its channels multiplied by φ.

        Closed channels are read as zeros, whatever batch normalisation adds behind a gate.
        """
        with ExitStack() as stack:
            stack.enter_context(self.gates.multiplying(self.values))
            if self._read is not None:
                stack.enter_context(self.channels.multiplying(self._read.to(self.learned)))
            yield

    def keep(self, threshold: float, min_channels: int) -> KeepPlan:
        """The channels whose gates are at least `threshold`; the best of a group if too few."""
        kept = {}
        for name, values in self.by_group.items():
            group = self.channels.graph.group(_MODEL + name)
            numbers = values.detach().cpu().double().numpy()
            units = _at_least(numbers, numbers >= threshold, group.floor(min_channels))
            kept[name] = tuple(np.flatnonzero(units[group.unit_of_channel]).tolist())
        return KeepPlan(kept)

    def close(self, graph: ChannelGraph, removed: Collection[Structure], keep: KeepPlan) -> None:
        """Take away the channels whose gates `keep` closes, as `plan` does.

        PlanError if it does not fit.
        """
        self._mask = self._read = self._mask_of(keep)
        if self._gating.at == "convolution":
            self._read = self._read_of(graph, removed, keep)

    def settle(self, keep: KeepPlan) -> None:
        """Set every gate to 1 that `keep` leaves open, and others to 0 (§5.4)."""
        self._mask, self._is_settled = self._mask_of(keep), True

    def fold(self) -> None:
        """Multiply the gates into the weights that they act on."""
        values = torch.cat([self.values.detach(), self.values.new_ones(1)])
        parameters = dict(self.gates.model.named_parameters())
        with torch.no_grad():
            for name, sites in self.gates.sites.items():
                for site in sites:
                    shape = [1] * parameters[name].dim()
                    shape[site.axis] = -1
                    chosen = values[site.units.to(values.device)]
                    parameters[name].mul_(chosen.to(parameters[name].dtype).reshape(shape))

    def plan(self, graph: ChannelGraph, removed: Collection[Structure], keep: KeepPlan) -> KeepPlan:
        """What stays of `graph`, the trace of the network without the removed structures.

        Shortcuts tie channels that had gates of their own. A unit goes once all gates are closed
        that act on it in that network: where it is read, or on the outputs of the layers that
        make it. What only a shortcut makes goes by the gates of the layer that it stands for.
        """
        best, offsets = self._best_gates(graph, removed, keep)
        kept = {}
        for number, group in enumerate(graph.groups):
            if group.pinned is None:
                scores = best[offsets[number] : offsets[number + 1]]
                units = _at_least(scores, scores >= 1, group.floor())
                kept[group.name] = tuple(np.flatnonzero(units[group.unit_of_channel]).tolist())
        return KeepPlan(kept)

    def _best_gates(
        self, graph: ChannelGraph, removed: Collection[Structure], keep: KeepPlan
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Per unit of all groups the largest 1 + φ of an open gate, or φ of a closed one.

        Infinite for what has no gate. And where each group's units begin.
        """
        values = self._gating.factor(self.learned.detach())
        gates = (values.cpu().double() + self._mask_of(keep).double()).numpy()
        gates = np.append(gates, np.inf)
        offsets = np.cumsum([0] + [group.num_units for group in graph.groups])
        best = np.full(offsets[-1], -np.inf)
        for product in graph.products:
            in_group = product.groups != NO_GROUP
            best[(offsets[product.groups] + product.units)[in_group]] = np.inf
        for axis, here, units in self._consumers(graph, removed):
            np.maximum.at(best, (offsets[axis.groups] + axis.units)[here], gates[units])
        made = np.full(offsets[-1], -np.inf)
        for axis, here, units in self._producers(graph, removed):
            np.maximum.at(made, (offsets[axis.groups] + axis.units)[here], gates[units])
        best = np.where(np.isfinite(made), made, best)
        return np.where(best == -np.inf, np.inf, best), offsets

    def _read_of(
        self, graph: ChannelGraph, removed: Collection[Structure], keep: KeepPlan
    ) -> Tensor:
        """Per gate, 1 where weights read its channel in the network that is left, else 0."""
        stays = self.plan(graph, removed, keep).units_kept(graph)
        flat = np.concatenate([stays[group.name] for group in graph.groups])
        offsets = np.cumsum([0] + [group.num_units for group in graph.groups])
        read = np.append(self._mask_of(keep).numpy(), 1)
        for axis, here, units in self._consumers(graph, removed):
            read[units] = flat[(offsets[axis.groups] + axis.units)[here]]
        return torch.from_numpy(read[:-1])

    def _consumers(self, graph: ChannelGraph, removed: Collection[Structure]) -> Iterator[_Acting]:
        """Where weights read channels, or else make them."""
        consumed, sites = consumed_groups(graph), self.channels.sites
        for axis in graph.axes:
            here = [n != NO_GROUP and (n in consumed) == axis.is_input for n in axis.groups]
            yield axis, np.array(here), self._acting(sites, axis, removed)[here]

    def _producers(self, graph: ChannelGraph, removed: Collection[Structure]) -> Iterator[_Acting]:
        """Where layers put channels out, if that is where gates act."""
        if self._gating.at == "convolution":
            sites = self.gates.sites
            for axis in graph.axes:
                if not axis.is_input:
                    here = np.isin(axis.groups, list(producing(axis, graph)))
                    yield axis, here, self._acting(sites, axis, removed)[here]

    def _acting(
        self,
        sites: Mapping[str, Sequence[Site]],
        axis: TensorAxis,
        removed: Collection[Structure],
    ) -> NDArray[np.int64]:
        """Per position along the axis the gate that acts there, U for none."""
        for site in sites.get(self._old_name(axis.tensor, removed), ()):
            if site.axis == axis.axis:
                return site.units.numpy()
        return np.full(len(axis.groups), self.gates.num_units)

    def _mask_of(self, keep: KeepPlan) -> Tensor:
        return self.channels.mask(KeepPlan({_MODEL + name: c for name, c in keep.keep.items()}))

    def _old_name(self, tensor: str, removed: Collection[Structure]) -> str:
        """The name in the gated network of a tensor of the network without these structures."""
        gated = self.channels.model
        assert isinstance(gated, GatedStructures)
        for structure in removed:
            added = gated.name_of_shortcut(structure)
            if added is not None and tensor.startswith(f"{structure.name}."):
                return added + tensor.removeprefix(structure.name)
        return _MODEL + tensor


def _at_least(
    values: NDArray[np.float64], chosen: NDArray[np.bool_], number: int
) -> NDArray[np.bool_]:
    """`chosen`, or the `number` largest values if it has fewer."""
    if chosen.sum() >= number:
        return chosen
    result = np.zeros(len(values), dtype=bool)
    result[np.argsort(-values, kind="stable")[:number]] = True
    return result
