"""Which slices of which parameters belong to a unit: its filters and their biases, its scales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruning.gates.channel_gates import ChannelGates, producing
from pruning.graph.channel_graph import ChannelGraph, TensorAxis, layer_of
from pruning.networks.torch_interior import BatchNorm
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


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
    parameters = {name for name, _ in gates.model.named_parameters()}
    axes = [a for a in gates.graph.axes if not a.is_input and a.tensor in parameters]
    return _gated(gates, [(axis, producing(axis, gates.graph)) for axis in axes])


def gated_scales(gates: ChannelGates) -> tuple[FilterAxis, ...]:
    """The scales γ of batch normalisations over channels whose gates are their group's."""
    axes = scale_axes(gates.model, gates.graph)
    return _gated(gates, [(axis, set(axis.groups.tolist())) for axis in axes])


def _gated(
    gates: ChannelGates, axes: Iterable[tuple[TensorAxis, set[int]]]
) -> tuple[FilterAxis, ...]:
    """Those of the axes that have gates, each for some groups by number."""
    gated, found = {gates.graph.index(name): name for name in gates.names}, []
    for axis, numbers in axes:
        units = np.full(len(axis.groups), gates.num_units, dtype=np.int64)
        for number in numbers & gated.keys():
            start = gates.start(gated[number], layer_of(axis.tensor))
            if start is not None:
                here = axis.groups == number
                units[here] = start + axis.units[here]
        if (units < gates.num_units).any():
            found.append(FilterAxis(axis.tensor, axis.axis, torch.from_numpy(units)))
    return tuple(found)


def scale_axes(model: nn.Module, graph: ChannelGraph) -> tuple[TensorAxis, ...]:
    """The scales γ of batch normalisations, but for sigmoid ones, whose parameter is none.

    model: without wrappers.
    """
    modules = dict(model.named_modules())

    def is_scale(axis: TensorAxis) -> bool:
        layer = modules.get(layer_of(axis.tensor))
        is_plain = isinstance(layer, BatchNorm) and not isinstance(layer, SigmoidBatchNorm)
        return is_plain and axis.tensor.rpartition(".")[2] == "weight"

    return tuple(axis for axis in graph.axes if is_scale(axis))
