"""The first-order Taylor expansion of the loss in the weights."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientMoments


@final
class TaylorWeights(FirstOrderCriterion):
    """Σ_s (g_s w_s)² over a unit's filters and their biases, averaged over minibatches; ≥ 0.

    Coupled channels add up over all of their producers.
    Source: Molchanov et al., eq. 8, and §3.2, "Importance score aggregation".
    """

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.weight_squares / moments.num_batches
