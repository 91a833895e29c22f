"""σ(γ) of σBN as a score."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from pruning.criteria.scale import Scale
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


@final
class SigmoidScale(Scale):
    """σ(γ) of σBN, in (0, 1): the importance of the RNI paper (§4)."""

    @property
    def layers(self) -> str:
        return "sigmoid batch normalisation"

    def scale_of(self, layer: nn.Module) -> Tensor | None:
        return layer.importance if isinstance(layer, SigmoidBatchNorm) else None
