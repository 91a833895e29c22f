"""LeNet for 32×32 images, as the Taylor paper prunes it."""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = (16, 32, 120, 84)


class LeNet(nn.Module):
    """Two 5×5 convolutions and two hidden linear layers, ReLU and no batch norm.

    Input (N, in_channels, 32, 32), output (N, num_classes).
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        first, second, third, fourth = _WIDTHS
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * 5 * 5, third),
            nn.ReLU(),
            nn.Linear(third, fourth),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(fourth, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def lenet3(num_classes: int = 10, in_channels: int = 3) -> LeNet:
    """LeNet with 16, 32, 120 and 84 neurons before the logits (Molchanov et al. 2019, §4.1.1).

    Weights are drawn as torch draws them at first; 121,182 parameters for 10 classes.
    """
    return LeNet(num_classes=num_classes, in_channels=in_channels)
