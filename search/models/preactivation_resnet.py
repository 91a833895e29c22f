"""Residual networks with activation before the convolutions (He et al. 2016, "Identity Mappings").

The wide ones, WRN-depth-width (Zagoruyko and Komodakis 2016), and ResNet-18 as the Taylor paper
(Molchanov et al. 2019, section 4.1.2) trains it on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.errors import ModelError
from search.models.initialisation import ZooNetwork

_STEM_WIDTH = 16
_STAGE_WIDTHS = (16, 32, 64)
_RESNET18_WIDTHS = (64, 128, 256, 512)


class PreactivationBlock(nn.Module):
    """shortcut(x) + branch(x), with batch norm and ReLU before each of two 3×3 convolutions.

    Where the shapes differ, the shortcut is a 1×1 convolution of the first activation;
    elsewhere it is x itself.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != width or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.norm1(x))
        branch = self.conv2(F.relu(self.norm2(self.conv1(activation))))
        shortcut = x if self.shortcut is None else self.shortcut(activation)
        total: Tensor = shortcut + branch
        return total


def _stage(in_channels: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    stage = nn.Sequential()
    for index in range(blocks):
        first = index == 0
        block = PreactivationBlock(in_channels if first else width, width, stride if first else 1)
        stage.add_module(f"block{index}", block)
    return stage


class PreactivationResNet(ZooNetwork):
    """A 3×3 convolution, stages of `PreactivationBlock`s, batch norm, one linear layer.

    widths: of the stages; each after the first halves the height and width of the image.
    blocks: in each stage. Input (N, in_channels, H, W), output (N, num_classes).
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        *,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__(norm_scale=1.0)
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        channels = stem
        self.num_stages = len(widths)
        for number, width in enumerate(widths, 1):
            stride = 1 if number == 1 else 2
            self.add_module(f"stage{number}", _stage(channels, width, blocks, stride=stride))
            channels = width
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
        logits: Tensor = self.classifier(F.relu(self.norm(x)).mean((2, 3)))
        return logits


def wide_resnet(
    depth: int, width: int, num_classes: int = 10, in_channels: int = 3
) -> PreactivationResNet:
    """WRN-depth-width; WRN-40-2 has 2,243,546 parameters for 10 classes.

    Three stages, 16, 32 and 64 times `width` wide. Raises ModelError if `depth` is not 6n + 4 or
    `width` is below 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest != 0:
        raise ModelError(f"the depth of a wide ResNet must be 6n + 4 with n ≥ 1, got {depth}")
    if width < 1:
        raise ModelError(f"the width of a wide ResNet must be at least 1, got {width}")
    widths = [base * width for base in _STAGE_WIDTHS]
    return PreactivationResNet(
        _STEM_WIDTH, widths, blocks, num_classes=num_classes, in_channels=in_channels
    )


def preact_resnet18(num_classes: int = 10, in_channels: int = 3) -> PreactivationResNet:
    """Pre-activation ResNet-18 for 32×32 images: two blocks in each of four stages.

    11,172,170 parameters for 10 classes.
    """
    return PreactivationResNet(
        _RESNET18_WIDTHS[0], _RESNET18_WIDTHS, 2, num_classes=num_classes, in_channels=in_channels
    )
