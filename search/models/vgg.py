"""VGG networks for small images: a plain chain of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from search.models.initialisation import ZooNetwork

_VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(ZooNetwork):
    """3×3 convolutions, each with batch norm and ReLU; max-pooling between stages.

    `stages` holds the widths of the convolutions, stage by stage. After the last stage the
    remaining positions are averaged (2×2 of them for VGG-16 on 32×32 images) and one linear
    layer gives the logits, after further ones as wide as `hidden` says, each with batch norm and
    ReLU, half of the outputs of the first dropped in training. Input (N, in_channels, H, W) with H
    and W at least 2^(stages − 1); output (N, num_classes).
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        *,
        num_classes: int,
        in_channels: int,
        convolution_bias: bool,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__(norm_scale=0.5)
        self.features = nn.Sequential()
        channels, index = in_channels, 0
        for stage, widths in enumerate(stages):
            if stage > 0:
                self.features.add_module(f"pool{stage}", nn.MaxPool2d(2))
            for width in widths:
                index += 1
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=convolution_bias)
                self.features.add_module(f"conv{index}", convolution)
                self.features.add_module(f"norm{index}", nn.BatchNorm2d(width))
                self.features.add_module(f"relu{index}", nn.ReLU(inplace=True))
                channels = width
        self.hidden = _hidden_layers(channels, hidden) if hidden else None
        channels = hidden[-1] if hidden else channels
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images).mean((2, 3))
        if self.hidden is not None:
            x = self.hidden(x)
        logits: Tensor = self.classifier(x)
        return logits


def _hidden_layers(channels: int, widths: Sequence[int]) -> nn.Sequential:
    layers = nn.Sequential()
    for number, width in enumerate(widths, 1):
        layers.add_module(f"linear{number}", nn.Linear(channels, width))
        layers.add_module(f"norm{number}", nn.BatchNorm1d(width))
        layers.add_module(f"relu{number}", nn.ReLU(inplace=True))
        if number == 1:
            layers.add_module("dropout", nn.Dropout(0.5))
        channels = width
    return layers


def vgg16(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> VGG:
    """VGG-16 with batch norm for 32×32 images, as in the RNI authors' experiments.

    Convolutions have a bias, the last max-pooling is dropped, the last 2×2 positions are
    averaged and one linear layer follows: 14,728,266 parameters for 10 classes.
    width_mult: multiplies all widths, which are rounded to whole ones; each is at least 1.
    """
    stages = [[max(1, round(width_mult * width)) for width in stage] for stage in _VGG16_STAGES]
    return VGG(stages, num_classes=num_classes, in_channels=in_channels, convolution_bias=True)


def vgg16_fc(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-16 with two hidden linear layers of 512 outputs, for 32×32 images.

    As Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors", §4.2,
    have it: batch norm
    after every layer, and dropout of 0.5 after the first linear one. The paper does not say how
    wide those are. Its L2 norm of 0.05 on every layer is a setting of training: --weight-decay 0.1
    (or --recipe scaling-factors); --linear-weight-decay is that of the linear layers alone.
    """
    return VGG(
        _VGG16_STAGES,
        num_classes=num_classes,
        in_channels=in_channels,
        convolution_bias=True,
        hidden=(512, 512),
    )
