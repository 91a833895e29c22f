"""The first-order Taylor expansion of the loss in the gates."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientMoments


@final
class Taylor(FirstOrderCriterion):
    """(∂E/∂z)² of a minibatch's mean loss, averaged over minibatches; ≥ 0.

    Right behind a batch normalisation this is (γ·∂E/∂γ + β·∂E/∂β)². It depends on the size of
    the minibatches: in larger ones the samples' gradients cancel.
    Source: Molchanov et al., eq. 7 and 9, and §3.2, "Gate placement".
    """

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.batch_squares / moments.num_batches
