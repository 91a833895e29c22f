"""The scale of a batch normalisation as the importance of its channel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pruning.channel_graph import ChannelGraph, TensorAxis
from pruning.criteria.criterion import Batches, Criterion
from pruning.errors import CriterionError
from pruning.sigmoid_batchnorm import SigmoidBatchNorm2d


class SigmoidScale(Criterion):
    """σ(γ) of σBN, in (0, 1): the importance of the RNI paper (§4).

    A channel that several σBN scale (along a residual stream, before and after a depthwise
    convolution) gets the mean of theirs.
    """

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        found = {
            graph.groups[number].name
            for _, axis in _scaled_axes(model, graph)
            for number in set(axis.groups.tolist())
            if number >= 0
        }
        return tuple(group.name for group in graph.prunable if group.name in found)

    def score(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        batches: Batches = (),  # noqa: ARG002 - σ(γ) needs no data
    ) -> dict[str, Tensor]:
        covered = self.covers(model, graph)
        if not covered:
            raise CriterionError(
                f"{type(model).__name__} has no sigmoid batch normalisation along a prunable "
                "group: choose a network with batch normalisation"
            )
        sums = {name: torch.zeros(graph.group(name).num_units) for name in covered}
        counts = {name: torch.zeros(graph.group(name).num_units) for name in covered}
        for layer, axis in _scaled_axes(model, graph):
            importance = layer.importance.detach().float().cpu()
            for name in covered:
                here = torch.from_numpy(axis.groups == graph.index(name))
                units = torch.from_numpy(axis.units)[here]
                sums[name].index_add_(0, units, importance[here])
                counts[name].index_add_(0, units, torch.ones(len(units)))
        return {
            name: (sums[name] / counts[name])[torch.from_numpy(graph.group(name).unit_of_channel)]
            for name in covered
        }


def _scaled_axes(
    model: nn.Module, graph: ChannelGraph
) -> Iterator[tuple[SigmoidBatchNorm2d, TensorAxis]]:
    axes = {axis.tensor: axis for axis in graph.axes if axis.axis == 0}
    for name, module in model.named_modules():
        axis = axes.get(f"{name}.weight")
        if isinstance(module, SigmoidBatchNorm2d) and axis is not None:
            yield module, axis
