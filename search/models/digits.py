"""Small networks for 8×8 images of digits: a search of them takes minutes on a CPU."""

from __future__ import annotations

from search.models.resnet import ResNet
from search.models.vgg import VGG


def digits_vgg(num_classes: int = 10, in_channels: int = 1) -> VGG:
    """Six 3×3 convolutions with batch norm, 32, 32, 64, 64, 128 and 128 wide.

    About 2.4 million multiply-adds on an 8×8 image.
    """
    return VGG(
        ((32, 32), (64, 64), (128, 128)),
        num_classes=num_classes,
        in_channels=in_channels,
        convolution_bias=False,
    )


def digits_resnet(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """ResNet-14: two blocks a stage, about 1.6 million multiply-adds on an 8×8 image."""
    return ResNet(14, num_classes=num_classes, in_channels=in_channels)
