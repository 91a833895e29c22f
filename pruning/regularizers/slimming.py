"""Network Slimming.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import l1
from pruning.regularizers.regularizer import Regularizer, checked_strength
from pruning.regularizers.scope import CHANNEL_SCALES, Scope


class Slimming(Regularizer):
    """λ · Σ|γ| ≥ 0 over the scales of all batch normalisations (eq. 1).

    γ is the weight of BatchNorm1d, 2d or 3d. Of σBN it is σ(γ), which multiplies the channel:
    the weight itself would be drawn to 0, where a channel is half open.

    strength: λ ≥ 0.
    graph: penalises only channels of its prunable groups; None penalises all.
    Calls raise CriterionError if there is no such scale, or the graph is of another network.
    """

    def __init__(self, strength: float, *, graph: ChannelGraph | None = None) -> None:
        self.strength = checked_strength("Slimming", strength)
        self._scope = Scope(graph)

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * l1(torch.cat(self._scope.values(model, CHANNEL_SCALES)))
