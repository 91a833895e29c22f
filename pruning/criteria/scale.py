"""The factor by which a normalisation scales a channel, as that channel's importance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pruning.criteria.criterion import Batches, Criterion
from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph, TensorAxis
from pruning.networks.wrappers import unwrapped


class Scale(Criterion):
    """Reads a score per channel off layers that scale channels.

    A channel that several layers scale (along a residual stream, before and after a depthwise
    convolution) gets the mean of theirs. A removed unit of several channels likewise.
    """

    @property
    @abstractmethod
    def layers(self) -> str:
        """What the layers are called that this criterion reads, in its error."""

    @abstractmethod
    def scale_of(self, layer: nn.Module) -> Tensor | None:
        """A value ≥ 0 per channel of this layer, shape (C,), or None for other layers."""

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        found = {
            graph.groups[number].name
            for _, axis in self._scales(model, graph)
            for number in set(axis.groups.tolist())
            if number >= 0
        }
        return tuple(group.name for group in graph.prunable if group.name in found)

    def score(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        batches: Batches = (),  # noqa: ARG002 - scales need no data
    ) -> dict[str, Tensor]:
        covered = self.covers(model, graph)
        if not covered:
            raise CriterionError(
                f"{type(model).__name__} has no {self.layers} along a prunable group, which "
                f"{type(self).__name__} reads: choose another criterion or network"
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
        model = unwrapped(model)
        axes = {axis.tensor: axis for axis in graph.axes if axis.axis == 0}
        for name, module in model.named_modules():
            axis = axes.get(f"{name}.weight")
            scale = self.scale_of(module) if axis is not None else None
            if axis is not None and scale is not None:
                yield scale.detach().to(torch.promote_types(scale.dtype, torch.float32)), axis
