"""Which slices of which parameters produce a unit: its filters and their biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning.gates.channel_gates import ChannelGates
from pruning.graph.channel_graph import ChannelGraph, TensorAxis


@dataclass(frozen=True)
class FilterAxis:
    """An axis of a parameter along which it produces gated channels.

    units: per position, the unit's place in the gates' vector of length U; U itself for none.
    """

    parameter: str
    axis: int
    units: Tensor

    def summed(self, values: Tensor, num_units: int) -> Tensor:
        """`values`, in the parameter's shape, summed per unit: shape (U,)."""
        others = [axis for axis in range(values.dim()) if axis != self.axis]
        positions = values.sum(others) if others else values
        zeros = positions.new_zeros(num_units + 1)
        return zeros.index_add(0, self.units.to(values.device), positions)[:-1]


def filter_axes(gates: ChannelGates) -> tuple[FilterAxis, ...]:
    """The output axes of weights and biases of the producers of all gated groups."""
    places = gates.by_group(torch.arange(gates.num_units))
    starts = {gates.graph.index(name): int(place[0]) for name, place in places.items()}
    parameters = {name for name, _ in gates.model.named_parameters()}
    axes = []
    for axis in gates.graph.axes:
        if axis.is_input or axis.tensor not in parameters:
            continue
        units = np.full(len(axis.groups), gates.num_units, dtype=np.int64)
        for number in producing(axis, gates.graph) & starts.keys():
            here = axis.groups == number
            units[here] = starts[number] + axis.units[here]
        if (units < gates.num_units).any():
            axes.append(FilterAxis(axis.tensor, axis.axis, torch.from_numpy(units)))
    return tuple(axes)


def producing(axis: TensorAxis, graph: ChannelGraph) -> set[int]:
    """The groups that the layer of this axis, not an input axis, is a producer of."""
    owner, _, own = axis.tensor.rpartition(".")
    return {
        number
        for number in np.unique(axis.groups[axis.groups >= 0]).tolist()
        if (owner or own) in graph.groups[number].producers
    }
