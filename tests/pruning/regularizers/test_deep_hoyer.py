"""DeepHoyer on scales: one Hoyer-Square per layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pruning import SigmoidBatchNorm2d
from pruning.regularizers import DeepHoyer


def layers(*scales: list[float], kind: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Module:
    norms = [kind(len(values)).double() for values in scales]
    with torch.no_grad():
        for norm, values in zip(norms, scales, strict=True):
            norm.weight.copy_(torch.tensor(values, dtype=torch.float64))
    return nn.ModuleList(norms)


def test_layers_are_measured_one_by_one() -> None:
    """(1 + 3)² / 10 + (2 + 2)² / 8; of all four together it would be 8² / 18."""
    assert DeepHoyer(0.5)(layers([1, -3], [2, 2])).item() == pytest.approx(0.5 * (1.6 + 2))


def test_a_layer_is_measured_whatever_its_scale() -> None:
    small, large = layers([1, -3], [2e-9, 2e-9]), layers([1e9, -3e9], [2, 2])
    assert DeepHoyer(1.0)(small).item() == pytest.approx(DeepHoyer(1.0)(large).item(), rel=1e-14)


def test_it_counts_channels_between_one_and_all() -> None:
    assert DeepHoyer(1.0)(layers([0, 0, 7])).item() == 1
    assert DeepHoyer(1.0)(layers([7, -7, 7])).item() == pytest.approx(3)


def test_a_layer_of_zeros_counts_nothing() -> None:
    assert DeepHoyer(1.0)(layers([0, 0, 0], [0, 2])).item() == 1


def test_of_sigmoid_batch_norm_it_is_the_bounded_scale() -> None:
    """σ = 3/4 and 1/4: 1² / (10/16)."""
    model = layers([math.log(3), -math.log(3)], kind=SigmoidBatchNorm2d)
    assert DeepHoyer(1.0)(model).item() == pytest.approx(1.6)
