"""Residual networks for 32×32 images (He et al. 2016, section 4.2), option A shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.errors import ModelError
from search.models.initialisation import ZooNetwork

_STAGE_WIDTHS = (16, 32, 64)


class ZeroPadShortcut(nn.Module):
    """Subsamples positions and appends channels of zeros (option A): no weights.

    The zeros come after the existing channels rather than around them, so that channel i of
    the shortcut is always channel i of the branch: the block stays right when any channels are
    removed from both.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, width: int) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        missing = width - x.shape[1]
        return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x


class BasicBlock(nn.Module):
    """relu(branch(x) + shortcut(x)), the branch two 3×3 convolutions with batch norm."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = ZeroPadShortcut(stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x, self.norm2.num_features))


def _stage(in_channels: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    stage = nn.Sequential()
    for index in range(blocks):
        first = index == 0
        block = BasicBlock(in_channels if first else width, width, stride if first else 1)
        stage.add_module(f"block{index}", block)
    return stage


class ResNet(ZooNetwork):
    """A 3×3 convolution, three stages of `BasicBlock`s (16, 32, 64 wide), one linear layer.

    Input (N, in_channels, H, W); the second and third stage halve H and W. Output
    (N, num_classes). `depth` counts the weighted layers and is 6·blocks + 2.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__(norm_scale=0.5)
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest != 0:
            raise ModelError(f"the depth of a ResNet must be 6n + 2 with n ≥ 1, got {depth}")
        narrow, middle, wide = _STAGE_WIDTHS
        self.conv1 = nn.Conv2d(in_channels, narrow, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.stage1 = _stage(narrow, narrow, blocks, stride=1)
        self.stage2 = _stage(narrow, middle, blocks, stride=2)
        self.stage3 = _stage(middle, wide, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(wide, num_classes)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(images)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def resnet(depth: int, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-depth, such as 20, 32, 44, 56 or 110; ModelError if `depth` is not 6n + 2."""
    return ResNet(depth, num_classes=num_classes, in_channels=in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20: three blocks a stage, 269,722 parameters for 10 classes."""
    return ResNet(20, num_classes=num_classes, in_channels=in_channels)


def resnet32(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-32: five blocks a stage."""
    return ResNet(32, num_classes=num_classes, in_channels=in_channels)


def resnet44(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-44: seven blocks a stage."""
    return ResNet(44, num_classes=num_classes, in_channels=in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-56: nine blocks a stage, 853,018 parameters for 10 classes."""
    return ResNet(56, num_classes=num_classes, in_channels=in_channels)


def resnet110(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-110: eighteen blocks a stage."""
    return ResNet(110, num_classes=num_classes, in_channels=in_channels)
