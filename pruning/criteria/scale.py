"""The factor by which batch normalisation scales a channel, as that channel's importance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from pruning.criteria.criterion import Batches, Criterion
from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph, TensorAxis
from pruning.networks.torch_interior import BatchNorm
from pruning.networks.wrappers import unwrapped
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


@final
class BatchNormScale(Criterion):
    """|γ| of batch normalisation, and σ(γ) of σBN, ≥ 0: what the layer multiplies a channel by.

    A network and its `fold` therefore score alike. A channel that several layers scale (along a
    residual stream, before and after a depthwise convolution) gets the mean of theirs. A unit of
    several channels likewise.
    sigmoid_only: whether σBN alone is read, and a network without it refused.
    Sources: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", §3
        (γ); Suteu and Guo, "Receding Neuron Importances for Structured Pruning", §4 (σ(γ)).
    """

    def __init__(self, *, sigmoid_only: bool = False) -> None:
        self.sigmoid_only = sigmoid_only

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        scaled = {
            graph.groups[number].name
            for _, axis in self._scales(model, graph)
            for number in set(axis.groups.tolist())
            if number >= 0
        }
        return tuple(group.name for group in graph.prunable if group.name in scaled)

    def score(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        batches: Batches = (),  # noqa: ARG002 - scales need no data
    ) -> dict[str, Tensor]:
        covered = self.covers(model, graph)
        if not covered:
            layers = "sigmoid batch normalisation" if self.sigmoid_only else "batch normalisation"
            raise CriterionError(
                f"{type(model).__name__} has no {layers} with a scale along a prunable group, "
                "which this criterion reads: choose another criterion or network"
            )
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for scale, axis in self._scales(model, graph):
            for name in covered:
                here = torch.from_numpy(axis.groups == graph.index(name))
                units = torch.from_numpy(axis.units)[here].to(scale.device)
                zeros = scale.new_zeros(graph.group(name).num_units)
                values = scale[here.to(scale.device)]
                sums[name] = sums.get(name, zeros).index_add(0, units, values)
                counts[name] = counts.get(name, zeros).index_add(0, units, torch.ones_like(values))
        return {
            name: (sums[name] / counts[name])[
                torch.from_numpy(graph.group(name).unit_of_channel).to(sums[name].device)
            ]
            for name in covered
        }

    def _scales(self, model: nn.Module, graph: ChannelGraph) -> Iterator[tuple[Tensor, TensorAxis]]:
        axes = {axis.tensor: axis for axis in graph.axes if axis.axis == 0}
        for name, layer in unwrapped(model).named_modules():
            scale, axis = self._scale_of(layer), axes.get(f"{name}.weight")
            if scale is not None and axis is not None:
                yield scale.detach().to(torch.promote_types(scale.dtype, torch.float32)), axis

    def _scale_of(self, layer: nn.Module) -> Tensor | None:
        """A value ≥ 0 per channel of this layer, shape (C,), or None for other layers."""
        if isinstance(layer, SigmoidBatchNorm):
            return layer.importance
        if isinstance(layer, BatchNorm) and layer.affine and not self.sigmoid_only:
            return layer.weight.abs()
        return None


SigmoidScale = partial(BatchNormScale, sigmoid_only=True)
"""σ(γ) of σBN, in (0, 1): the importance of the RNI paper."""
