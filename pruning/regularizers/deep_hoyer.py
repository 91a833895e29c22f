"""DeepHoyer on the scales of channels.

Source: Yang et al., "DeepHoyer: Learning Sparser Neural Network with Differentiable
Scale-Invariant Sparsity Measures", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import hoyer_square
from pruning.regularizers.regularizer import Regularizer, checked_strength
from pruning.regularizers.scope import CHANNEL_SCALES, Scope


class DeepHoyer(Regularizer):
    """λ · Σ_l (Σ|γ|)² / Σγ² ≥ 0: the Hoyer-Square of each layer's scales, summed over layers.

    A layer counts from 1 (one channel is left) to its number of channels (all are equal), or 0
    if all its scales are 0; multiplying them by a number changes nothing. γ is the weight of
    BatchNorm1d, 2d or 3d; of σBN it is σ(γ).

    strength: λ ≥ 0.
    graph: penalises only channels of its prunable groups; None penalises all.
    Calls raise CriterionError if there is no such scale, or the graph is of another network.
    """

    def __init__(self, strength: float, *, graph: ChannelGraph | None = None) -> None:
        self.strength = checked_strength("DeepHoyer", strength)
        self._scope = Scope(graph)

    def __call__(self, model: nn.Module) -> Tensor:
        layers = self._scope.values(model, CHANNEL_SCALES)
        return self.strength * torch.stack([hoyer_square(gamma) for gamma in layers]).sum()
