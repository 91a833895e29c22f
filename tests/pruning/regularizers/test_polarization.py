"""Polarization: one mean over the scales of all layers."""

from __future__ import annotations

import math
import re

import pytest
import torch
from networks import chain, conv, head
from torch import Tensor, nn

from pruning import ChannelGraph, trace
from pruning.errors import ConfigError
from pruning.regularizers import Polarization


def two_layers(first: list[float], second: list[float]) -> nn.Module:
    model = chain(
        conv1=conv(3, len(first)),
        bn1=nn.BatchNorm2d(len(first)),
        conv2=conv(len(first), len(second)),
        bn2=nn.BatchNorm2d(len(second)),
    ).double()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor(first))
        model.bn2.weight.copy_(torch.tensor(second))
    return model


def graph_of(model: nn.Module) -> ChannelGraph:
    """bn2 is pinned: its channels are the output."""
    return trace(model.float(), torch.zeros(1, 3, 8, 8))


def test_the_mean_is_over_all_layers() -> None:
    """γ = 1, 1 and 4: mean 2, distances 1 + 1 + 2, where means per layer would give 0."""
    model = two_layers([1, 1], [4])
    assert Polarization(0.5, 1.5)(model).item() == pytest.approx(0.5 * (1.5 * 6 - 4))


def test_the_mean_is_over_what_is_penalised() -> None:
    """Of γ = 1 and 3 alone the mean is 2 and the distances are 1 + 1."""
    model = two_layers([1, 3], [100])
    regularizer = Polarization(1.0, 1.5, graph=graph_of(model))
    assert regularizer(model.double()).item() == pytest.approx(1.5 * 4 - 2)


def test_it_can_be_negative() -> None:
    assert Polarization(1.0, 0.0)(two_layers([0, 0], [1, 1])).item() == -2


def test_t_is_1_2_by_default() -> None:
    model = two_layers([1, 2], [3])
    assert Polarization(1.0)(model).item() == Polarization(1.0, 1.2)(model).item()


def test_it_polarises_scales_that_are_clamped() -> None:
    """Descent from even spacing in [0, 1] ends at both bounds, with no scale between."""
    model = two_layers([0.1, 0.3, 0.5], [0.7, 0.9])
    scales: list[Tensor] = [model.bn1.weight, model.bn2.weight]
    for _ in range(200):
        found = torch.autograd.grad(Polarization(0.05, 0.6)(model), scales)
        with torch.no_grad():
            for scale, gradient in zip(scales, found, strict=True):
                scale.sub_(gradient).clamp_(0, 1)
    assert set(torch.cat(scales).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("t", [-0.1, math.inf, math.nan])
def test_values_of_t_that_are_refused(t: float) -> None:
    message = re.escape(f"t of Polarization must be at least 0, got {t}")
    with pytest.raises(ConfigError, match=message):
        Polarization(1.0, t)


def test_the_head_of_a_network_has_no_say() -> None:
    model = chain(conv1=conv(3, 2), bn1=nn.BatchNorm2d(2), head=head(2))
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([1.0, 3.0]))
    assert Polarization(1.0, 1.5)(model).item() == pytest.approx(1.5 * 4 - 2)
