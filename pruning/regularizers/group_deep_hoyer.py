"""DeepHoyer on the filters of convolutions.

Source: Yang et al., "DeepHoyer: Learning Sparser Neural Network with Differentiable
Scale-Invariant Sparsity Measures", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import hoyer_square
from pruning.regularizers.regularizer import Regularizer, checked_strength
from pruning.regularizers.scope import CONVOLUTIONS, Scope, Target, output_axis


def _filter_norms(layer: nn.Module) -> Tensor | None:
    """‖w_g‖₂ per output channel; in single precision where the weight is in half."""
    if not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return None
    weight = layer.weight
    others = [axis for axis in range(weight.dim()) if axis != output_axis(layer)]
    exact = torch.promote_types(weight.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(weight, dim=others, dtype=exact)
    return norms


def _convolution_filter_norms(layer: nn.Module) -> Tensor | None:
    return None if isinstance(layer, nn.Linear) else _filter_norms(layer)


_FILTERS = Target("convolution", "choose a convolutional network", _convolution_filter_norms)
_FILTERS_AND_UNITS = Target("convolution or linear layer", _FILTERS.remedy, _filter_norms)


class GroupDeepHoyer(Regularizer):
    """λ · Σ_l (Σ_g ‖w_g‖₂)² / Σ_g ‖w_g‖₂² ≥ 0: the group form (Group-HS) on filters.

    w_g are the weights of one output channel g of layer l, without its bias. A layer counts
    from 1 (one filter is left) to its number of filters (all of equal norm), or 0 if all its
    weights are 0. Channels that several layers produce have a norm in each of them. A grouped
    transposed convolution has one norm for the same channel of every group.

    strength: λ ≥ 0.
    graph: penalises only the filters, and the outputs of linear layers, that produce its
        prunable groups; None penalises all filters of all convolutions, but no linear layer,
        since the outputs of the last one are the classes.
    Calls raise CriterionError if there is no such filter, or the graph is of another network.
    """

    def __init__(self, strength: float, *, graph: ChannelGraph | None = None) -> None:
        self.strength = checked_strength("GroupDeepHoyer", strength)
        self._scope = Scope(graph)
        self._target = _FILTERS if graph is None else _FILTERS_AND_UNITS

    def __call__(self, model: nn.Module) -> Tensor:
        layers = self._scope.values(model, self._target)
        return self.strength * torch.stack([hoyer_square(norms) for norms in layers]).sum()
