"""Connection sensitivity of the gates, meant for networks before training."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientMoments


@final
class Snip(FirstOrderCriterion):
    """|∂E/∂z| of the mean loss over all the data, as a share of the sum over all units; in [0, 1].

    Pass a freshly initialised network. All zeros if no gate matters.
    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        eq. 6, with a gate per channel in place of one per weight.
    """

    def of(self, moments: GradientMoments) -> Tensor:
        sensitivity = moments.sample_sums.abs()
        return sensitivity / sensitivity.sum().clamp(min=torch.finfo(sensitivity.dtype).tiny)
