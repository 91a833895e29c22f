"""A small residual network in which every granularity has something to gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """relu(branch(x) + shortcut(x)); with a stride the shortcut is a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.short = conv(inputs, outputs, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.short(x))


class Wired(nn.Module):
    """Layers by name and how one activation passes them; torch.fx can read it."""

    def __init__(self, wiring: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def residual() -> nn.Module:
    """Three residual blocks between two sequential parts; float64, random."""
    model = chain(
        stem=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        relu1=nn.ReLU(inplace=True),
        conv=conv(8, 8),
        relu2=nn.ReLU(inplace=True),
        block1=ResidualBlock(8, 8),
        block2=ResidualBlock(8, 12, stride=2),
        block3=ResidualBlock(12, 12),
        wide=conv(12, 10),
        wide_norm=nn.BatchNorm2d(10),
        head=head(10),
    )
    return randomised(model).double()


def images(number: int = 1, extent: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, extent, extent, generator=generator, dtype=torch.float64)
