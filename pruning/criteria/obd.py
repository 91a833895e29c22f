"""Optimal brain damage: the curvature of the loss in the gates."""

from __future__ import annotations

from typing import final

from torch import Tensor

from pruning.criteria.second_order import SecondOrderCriterion


@final
class Obd(SecondOrderCriterion):
    """½H of a minibatch's mean loss, averaged over minibatches, with its sign.

    The rise of the loss without a channel, if the gradient is zero: the network is trained. It
    may be negative, for channels whose removal would lower the loss; they go first.
    Source: LeCun et al., "Optimal Brain Damage", eq. 5, on gates of one instead of weights;
        signed as in Molchanov et al., §4.1.2.
    """

    def of(
        self,
        gradient: Tensor,  # noqa: ARG002 - taken as zero
        curvature: Tensor,
    ) -> Tensor:
        return curvature / 2
