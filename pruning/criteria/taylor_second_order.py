"""The second-order Taylor expansion of the loss in the gates."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pruning.criteria.second_order import SecondOrderCriterion


@final
class TaylorSecondOrder(SecondOrderCriterion):
    """(g − ½H)² of a minibatch's mean loss, averaged over minibatches; ≥ 0.

    To second order the loss changes by −g + ½H when one gate goes from one to zero.
    Source: Molchanov et al., eq. 4 on gates, with the diagonal of the Hessian alone as in §3.2.
    """

    def of(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        return (gradient - curvature / 2) ** 2
