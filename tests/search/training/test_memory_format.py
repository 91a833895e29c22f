"""Weights beside images: only those that convolutions read are laid out as images are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.training.memory_format import laid_out


class OwnConvolution(nn.Conv2d):
    """Standardised weights, viewed as rows."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.view(self.out_channels, -1)
        weight = ((rows - rows.mean(1, keepdim=True)) / rows.std()).view(self.weight.shape)
        return self._conv_forward(x, weight, self.bias)


class Positions(nn.Module):
    """Parameters of four and five dimensions that nobody convolves with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.own = nn.Conv2d(3, 8, 3, padding=1), OwnConvolution(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.positions = nn.Parameter(torch.randn(1, 8, 6, 6))
        self.windows = nn.Parameter(torch.randn(1, 2, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.stem(x))
        x = x + self.positions.view(1, 8, 36).unflatten(2, (6, 6)) + self.windows.view(1, 8, 6, 6)
        return self.up(x)


def test_convolutions_are_laid_out_and_nothing_else() -> None:
    model, images = Positions(), torch.randn(2, 3, 6, 6)
    expected = model(images)
    assert laid_out(model, torch.channels_last) is model
    for weight in (model.stem.weight, model.up.weight):
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()
    for other in (model.own.weight, model.positions, model.windows):
        assert other.is_contiguous()
    assert torch.allclose(model(images), expected, atol=1e-5)


def test_without_a_format_weights_stay_as_they_are() -> None:
    model = Positions()
    laid_out(model, torch.preserve_format)
    assert model.stem.weight.is_contiguous()
