"""The absolute scale of batch normalisation as a score."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from pruning.criteria.scale import Scale
from pruning.networks.torch_interior import BatchNorm
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


@final
class BatchNormScale(Scale):
    """|γ| of batch normalisation, ≥ 0.

    γ is what the layer multiplies by: of σBN it is σ(γ), so that a network and its `fold` score
    alike.
    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", §3.
    """

    @property
    def layers(self) -> str:
        return "batch normalisation with a scale"

    def scale_of(self, layer: nn.Module) -> Tensor | None:
        if isinstance(layer, SigmoidBatchNorm):
            return layer.importance
        if isinstance(layer, BatchNorm) and layer.affine:
            return layer.weight.abs()
        return None
