"""The Fisher information of the gates: the approximate rise of the loss without a channel."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.nn import functional as F

from pruning.criteria.criterion import Loss
from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientMoments, flops_saved
from pruning.errors import CriterionError


@final
class Fisher(FirstOrderCriterion):
    """Δ = ½ · mean_n (∂L_n/∂z)², less `flops_penalty` times the FLOPs that removal saves.

    ∂L_n/∂z is the sum over positions of activation · gradient. Without a penalty scores are ≥ 0;
    with one, channels that are cheap to lose and expensive to run go first.
    flops_penalty: β ≥ 0, loss per FLOP (one multiply-add, batch 1); reasonable values are of
        the size of the loss over the network's FLOPs. FLOPs are saved at the widths that are
        left, see GradientMoments.widths.
    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", §2;
        Turner et al., "Pruning neural networks: is it time to nip it in the bud?".
    """

    def __init__(self, flops_penalty: float = 0.0, *, loss: Loss = F.cross_entropy) -> None:
        if not 0 <= flops_penalty < float("inf"):
            raise CriterionError(
                f"flops_penalty must be finite and at least 0, got {flops_penalty}"
            )
        super().__init__(loss)
        self.flops_penalty = flops_penalty

    def of(self, moments: GradientMoments) -> Tensor:
        delta = moments.sample_squares / (2 * moments.num_samples)
        if not self.flops_penalty:
            return delta
        return delta - self.flops_penalty * flops_saved(moments)
