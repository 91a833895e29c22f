"""Polarization.

Source: Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer", 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import polarization
from pruning.regularizers.regularizer import Regularizer, checked_strength
from pruning.regularizers.scope import CHANNEL_SCALES, Scope


class Polarization(Regularizer):
    """λ · (t·Σ|γ| − Σ|γ − mean(γ)|) over the scales of all batch normalisations (eq. 2).

    The mean is over all γ that are penalised, of all layers together. γ is the weight of
    BatchNorm1d, 2d or 3d; of σBN it is σ(γ).

    The value can be negative; of n unbounded γ it has no least value for t < 2·(1 − 1/n). The
    authors clamp γ to [0, 1] after every step, which is up to the training loop; σ(γ) is
    bounded as it is.

    strength: λ ≥ 0.
    t: ≥ 0; the larger it is, the more channels go to 0.
    graph: penalises only channels of its prunable groups; None penalises all.
    Calls raise CriterionError if there is no such scale, or the graph is of another network.
    """

    def __init__(
        self, strength: float, t: float = 1.2, *, graph: ChannelGraph | None = None
    ) -> None:
        self.strength = checked_strength("Polarization", strength)
        if not (0 <= t < math.inf):
            raise ConfigError(f"t of Polarization must be at least 0, got {t!r}")
        self.t = t
        self._scope = Scope(graph)

    def __call__(self, model: nn.Module) -> Tensor:
        gamma = torch.cat(self._scope.values(model, CHANNEL_SCALES))
        return self.strength * polarization(gamma, self.t)
