"""Receding neuron importances.

Source: Suteu and Guo, "Receding Neuron Importances for Structured Pruning", eq. 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import ConfigError, CriterionError
from pruning.regularizers.regularizer import Regularizer
from pruning.sigmoid_batchnorm import SigmoidBatchNorm2d


class RNI(Regularizer):
    """λ_S · Σ s·(1 − log s) with s = σ(γ + b), over every channel of every σBN (eq. 4).

    Its gradient with respect to s is −λ_S·log s: it fades as a channel becomes important.

    strength: λ_S ≥ 0.
    shift: b; the larger it is, the fewer channels recede.
    """

    def __init__(self, strength: float, shift: float = 0.0) -> None:
        if not (0 <= strength < math.inf):
            raise ConfigError(f"the strength of RNI must be at least 0, got {strength!r}")
        if not math.isfinite(shift):
            raise ConfigError(f"the shift of RNI must be a number, got {shift!r}")
        self.strength = strength
        self.shift = shift

    def __call__(self, model: nn.Module) -> Tensor:
        scales: list[Tensor] = [
            m.weight for m in model.modules() if isinstance(m, SigmoidBatchNorm2d)
        ]
        if not scales:
            raise CriterionError(
                f"{type(model).__name__} has no sigmoid batch normalisation, which RNI penalises: "
                "convert it with pruning.to_sigmoid_batchnorm"
            )
        gamma = torch.cat(scales)
        exact = gamma.to(torch.promote_types(gamma.dtype, torch.float32))  # half is too coarse
        log_importance = F.logsigmoid(exact + self.shift)
        return self.strength * (log_importance.exp() * (1 - log_importance)).sum()
