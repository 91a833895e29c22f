"""Slimming: λ·Σ|γ| over every layer with a scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pruning import SigmoidBatchNorm2d
from pruning.regularizers import Slimming


def with_scales(norm: nn.Module, *values: float) -> nn.Module:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(values))
    return norm.double()


def test_it_sums_over_normalisations_of_every_dimension() -> None:
    model = nn.ModuleList(
        [
            with_scales(nn.BatchNorm1d(2), 1, -2),
            with_scales(nn.BatchNorm2d(1), 4),
            with_scales(nn.BatchNorm3d(3), 0, 8, -16),
            nn.BatchNorm2d(5, affine=False),
        ]
    )
    assert Slimming(0.5)(model).item() == 0.5 * (1 + 2 + 4 + 8 + 16)


def test_other_normalisations_and_offsets_do_not_count() -> None:
    norm = with_scales(nn.BatchNorm2d(2), 1, 1)
    with torch.no_grad():
        norm.bias.fill_(100)
    model = nn.Sequential(norm, nn.GroupNorm(1, 2), nn.LayerNorm(2))
    assert Slimming(1.0)(model).item() == 2


def test_of_sigmoid_batch_norm_it_is_the_bounded_scale() -> None:
    """σ(log 3) = 3/4 and σ(−log 3) = 1/4."""
    norm = SigmoidBatchNorm2d(2).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64))
    assert Slimming(2.0)(norm).item() == pytest.approx(2.0, rel=1e-14)


def test_a_normalisation_alone_is_a_model() -> None:
    assert Slimming(1.0)(with_scales(nn.BatchNorm2d(2), 1, -2)).item() == 3
