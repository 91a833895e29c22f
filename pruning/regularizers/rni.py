"""Receding neuron importances.

Source: Suteu and Guo, "Receding Neuron Importances for Structured Pruning", eq. 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import receding_from_log
from pruning.regularizers.regularizer import Regularizer, checked_strength
from pruning.regularizers.scope import Scope, Target
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


def _gamma(layer: nn.Module) -> Tensor | None:
    return layer.weight if isinstance(layer, SigmoidBatchNorm) else None


_SIGMOID_GAMMA = Target(
    "sigmoid batch normalisation", "convert it with pruning.to_sigmoid_batchnorm", _gamma
)


class RNI(Regularizer):
    """λ_S · Σ s·(1 − log s) ≥ 0 with s = σ(γ + b), over the channels of all σBN (eq. 4).

    Its gradient with respect to s is −λ_S·log s: it fades as a channel becomes important.

    strength: λ_S ≥ 0.
    shift: b; the larger it is, the fewer channels recede.
    graph: penalises only channels of its prunable groups; None penalises all.
    Calls raise CriterionError if there is no σBN, or the graph is of another network.
    """

    def __init__(
        self, strength: float, shift: float = 0.0, *, graph: ChannelGraph | None = None
    ) -> None:
        self.strength = checked_strength("RNI", strength)
        if not math.isfinite(shift):
            raise ConfigError(f"the shift of RNI must be a number, got {shift!r}")
        self.shift = shift
        self._scope = Scope(graph)

    def __call__(self, model: nn.Module) -> Tensor:
        gamma = torch.cat(self._scope.values(model, _SIGMOID_GAMMA))
        exact = gamma.to(torch.promote_types(gamma.dtype, torch.float32))  # half is too coarse
        return self.strength * receding_from_log(F.logsigmoid(exact + self.shift))
