"""Where a regularizer finds what it penalises: in a whole model, or where it is pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.torch_interior import BatchNorm, Convolution
from pruning.networks.wrappers import unwrapped
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


@dataclass(frozen=True)
class Target:
    """One number per output channel of some layers.

    name: of such a layer, in errors.
    remedy: what to do with a model that has none.
    read: the numbers of a layer, along the output axis of its `weight`; None if it has none.
    """

    name: str
    remedy: str
    read: Callable[[nn.Module], Tensor | None]


@dataclass(frozen=True)
class Place:
    """A layer that is penalised: `positions` says which of its values are, None that all are."""

    layer: nn.Module
    read: Callable[[nn.Module], Tensor | None]
    positions: Tensor | None

    @property
    def values(self) -> Tensor:
        """What is read of it now, a non-empty vector."""
        values = self.read(self.layer)
        assert values is not None, self.layer
        return values if self.positions is None else values[self.positions]


class Scope:
    """The part of a model that a regularizer is about.

    graph: a trace of the network, or of one with equally named layers, such as the network
        before `to_sigmoid_batchnorm`; only channels of the groups that are pruned are in scope (see
        ChannelGraph.pruned). None: every channel is.
    """

    def __init__(self, graph: ChannelGraph | None = None) -> None:
        self._is_whole = graph is None
        self._layers: tuple[str, ...] = ()
        self._sizes: dict[tuple[str, int], int] = {}
        self._pruned: dict[tuple[str, int], Tensor] = {}
        if graph is None:
            return
        self._layers = tuple(dict.fromkeys(name for g in graph.groups for name in g.layers))
        pruned = {group.name for group in graph.pruned}
        is_pruned = np.array([group.name in pruned for group in graph.groups])
        for axis in graph.axes:
            positions = np.flatnonzero((axis.groups >= 0) & is_pruned[axis.groups])
            self._sizes[axis.tensor, axis.axis] = len(axis.groups)
            self._pruned[axis.tensor, axis.axis] = torch.from_numpy(positions)

    def places(self, model: nn.Module, target: Target) -> list[Place]:
        """The layers of `model` that are in scope and that `target` reads, at least one.

        Raises CriterionError if there is none, or if the graph is of another network.
        """
        model = unwrapped(model)
        self._check_graph(model)
        layers = {
            name: (layer, values)
            for name, layer in model.named_modules()
            if (values := target.read(layer)) is not None
        }
        if not layers:
            raise CriterionError(f"{type(model).__name__} has no {target.name}: {target.remedy}")
        places = [
            Place(layer, target.read, self._positions(f"{name}.weight", layer, values))
            for name, (layer, values) in layers.items()
        ]
        places = [place for place in places if place.positions is None or len(place.positions)]
        if not places:
            raise CriterionError(
                f"{type(model).__name__} has no {target.name} along a prunable group that is "
                "pruned: penalise all of it, without a graph, say what is pruned by "
                "graph.pruning(names), or see graph.describe() for what is pinned"
            )
        return places

    def _positions(self, tensor: str, layer: nn.Module, values: Tensor) -> Tensor | None:
        """Which of a layer's values are in scope, on their device; None if all are."""
        if self._is_whole and len(values):
            return None
        none = torch.zeros(0, dtype=torch.int64)
        positions = self._pruned.get((tensor, _output_axis(layer)), none)
        if len(values) and len(positions) == len(values):
            return None
        return positions.to(values.device)

    def _check_graph(self, model: nn.Module) -> None:
        if self._is_whole:
            return
        tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
        known = tensors.keys() | {name for name, _ in model.named_modules()}
        missing = [name for name in self._layers if name not in known]
        if missing:
            raise CriterionError(
                f"the graph is not of this {type(model).__name__}, which has no layer "
                f"{missing[0]!r}: trace this network, and hand over the network itself, not a "
                "wrapper of it"
            )
        for (name, axis), size in self._sizes.items():
            if name in tensors and size not in tensors[name].shape[axis : axis + 1]:
                raise CriterionError(
                    f"the graph is not of this {type(model).__name__}: it has {size} channels "
                    f"along axis {axis} of {name}, which has shape {tuple(tensors[name].shape)}: "
                    "trace this network"
                )


def _output_axis(layer: nn.Module) -> int:
    """The axis of a layer's weight along which its output channels lie."""
    return 1 if isinstance(layer, Convolution) and layer.transposed else 0


def _scale(layer: nn.Module) -> Tensor | None:
    if isinstance(layer, SigmoidBatchNorm):
        return layer.importance
    return layer.weight if isinstance(layer, BatchNorm) else None


def _sigmoid_gamma(layer: nn.Module) -> Tensor | None:
    return layer.weight if isinstance(layer, SigmoidBatchNorm) else None


def _norms_of_outputs(layer: nn.Module) -> Tensor | None:
    """‖w_g‖₂ per output channel; in single precision where the weight is in half."""
    if not isinstance(layer, Convolution | nn.Linear):
        return None
    weight = layer.weight
    others = [axis for axis in range(weight.dim()) if axis != _output_axis(layer)]
    exact = torch.promote_types(weight.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(weight, dim=others, dtype=exact)
    return norms


def _norms_of_filters(layer: nn.Module) -> Tensor | None:
    return None if isinstance(layer, nn.Linear) else _norms_of_outputs(layer)


CHANNEL_SCALES = Target(
    "batch normalisation with a scale", "choose a network with batch normalisation", _scale
)
"""What a batch normalisation multiplies its channels by: γ, or σ(γ) of σBN."""

SIGMOID_GAMMA = Target(
    "sigmoid batch normalisation",
    "convert it with pruning.to_sigmoid_batchnorm",
    _sigmoid_gamma,
)
"""γ of σBN itself."""

FILTERS = Target("convolution", "choose a convolutional network", _norms_of_filters)
"""The L2 norm of each filter of a convolution."""

FILTERS_AND_UNITS = Target(
    "convolution or linear layer", "choose a convolutional network", _norms_of_outputs
)
"""The same, and that of the weights of each output of a linear layer."""
