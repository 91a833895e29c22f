"""No penalty is zero, for any model."""

from __future__ import annotations

import torch
from torch import nn

from pruning.regularizers import NoRegularizer


def test_it_is_zero_for_networks_of_any_kind() -> None:
    for model in (nn.Conv2d(3, 4, 1), nn.Linear(2, 2), nn.ReLU()):
        assert NoRegularizer()(model).item() == 0


def test_not_even_a_network_that_diverged_changes_it() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(torch.inf)
    assert NoRegularizer()(model).item() == 0
