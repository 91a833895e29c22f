"""The first-order Taylor expansion of each sample's own loss in the gates."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientMoments


@final
class TaylorFullGradient(FirstOrderCriterion):
    """(∂L_n/∂z)² of a sample's loss, averaged over samples; ≥ 0. Twice Fisher without penalty.

    Source: Molchanov et al., §4.1.2, "full grad".
    """

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.sample_squares / moments.num_samples
