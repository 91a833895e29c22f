"""MobileNetV2 for 32×32 images: torchvision's, with less subsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from torchvision import models as torchvision_models
else:
    (torchvision_models,) = lazy_modules("torchvision.models")

_STAGES = [
    *([1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2]),
    *([6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]),
]
"""Expansion, channels, blocks, stride (Sandler et al. 2018, Table 2), the second at stride 1."""


def mobilenetv2(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> nn.Module:
    """MobileNetV2 whose first convolution and second stage have stride 1: 32×32 become 4×4.

    width_mult: multiplies all widths (RNI, Table 5, takes such networks as baselines).
    2,236,682 parameters for 10 classes at 1.
    """
    model: nn.Module = torchvision_models.MobileNetV2(
        num_classes=num_classes, width_mult=width_mult, inverted_residual_setting=_STAGES
    )
    stem = model.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    first = nn.Conv2d(in_channels, stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out")
    model.set_submodule("features.0.0", first)
    return model
