"""The size of a channel's filters as its importance."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from pruning.criteria.criterion import Batches, GateCriterion
from pruning.criteria.filters import filter_axes
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates, producing
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.wrappers import unwrapped


@final
class WeightMagnitude(GateCriterion):
    """The L1 or L2 norm of the filters that produce a channel, ≥ 0; biases are left out.

    The filters of coupled channels, of all producers and of a unit's channels, count as one
    long vector: L1 adds their norms, L2 the squares of them.
    norm: 1 or 2.
    Source: Li et al., "Pruning Filters for Efficient ConvNets", §3.1 (L1), §4.4 (L2).
    """

    def __init__(self, norm: Literal[1, 2] = 2) -> None:
        if norm not in (1, 2):
            raise CriterionError(f"norm must be 1 or 2, got {norm!r}")
        self.norm = norm

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        weights = {name for name, tensor in unwrapped(model).named_parameters() if tensor.dim() > 1}
        produced = {
            number
            for axis in graph.axes
            if not axis.is_input and axis.tensor in weights
            for number in producing(axis, graph)
        }
        names = super().covers(model, graph)
        return tuple(name for name in names if graph.index(name) in produced)

    def gates(self, model: nn.Module, graph: ChannelGraph) -> ChannelGates:
        if not self.covers(model, graph):
            raise CriterionError(
                f"{type(model).__name__} has no weights that produce a prunable group: "
                "choose another network, or trace this one again"
            )
        return super().gates(model, graph)

    def judge(
        self,
        gates: ChannelGates,
        batches: Batches = (),  # noqa: ARG002 - weights need no data
    ) -> Tensor:
        parameters, total = dict(gates.model.named_parameters()), None
        for axis in filter_axes(gates):
            weight = parameters[axis.parameter].detach()
            if weight.dim() == 1:
                continue
            weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
            sums = axis.summed(weight.abs() if self.norm == 1 else weight**2, gates.num_units)
            total = sums if total is None else total + sums
        assert total is not None, gates.names
        return total if self.norm == 1 else total.sqrt()
