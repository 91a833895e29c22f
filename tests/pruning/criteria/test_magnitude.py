"""Norms of filters: of one producer, of several, of a unit's channels."""

from __future__ import annotations

import pytest
import torch
from architectures import BY_NAME

from pruning.criteria import WeightMagnitude
from pruning.errors import CriterionError


@pytest.mark.parametrize("norm", [1, 2])
def test_a_filters_norm_without_its_bias(norm: int) -> None:
    architecture = BY_NAME["chain"]
    model = architecture.network(0, torch.float64)
    scores = WeightMagnitude(norm).score(model, architecture.graph)
    for name in ("conv1", "conv2"):
        filters = getattr(model, name).weight.detach().flatten(1)
        torch.testing.assert_close(scores[name], filters.norm(p=norm, dim=1))


@pytest.mark.parametrize("norm", [1, 2])
def test_coupled_filters_are_one_long_vector(norm: int) -> None:
    architecture = BY_NAME["identity shortcut"]
    model = architecture.network(0, torch.float64)
    scores = WeightMagnitude(norm).score(model, architecture.graph)
    filters = torch.cat([layer.weight.detach().flatten(1) for layer in (model.stem, model.b)], 1)
    torch.testing.assert_close(scores["stem"], filters.norm(p=norm, dim=1))


@pytest.mark.parametrize("norm", [1, 2])
def test_the_filters_of_a_transposed_convolution_in_groups(norm: int) -> None:
    """Weights are input × output / groups: a unit is one output channel of each group."""
    architecture = BY_NAME["transposed, few wide groups"]
    model = architecture.network(0, torch.float64)
    scores = WeightMagnitude(norm).score(model, architecture.graph)
    filters = model.up.weight.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(scores["up"], filters.norm(p=norm, dim=1).repeat(2))


def test_bare_parameters_are_filters_too() -> None:
    architecture = BY_NAME["functional calls"]
    model = architecture.network(0, torch.float64)
    scores = WeightMagnitude(1).score(model, architecture.graph)
    torch.testing.assert_close(scores["kernel"], model.kernel.detach().abs().sum((1, 2, 3)))


def test_another_norm_is_refused() -> None:
    with pytest.raises(CriterionError, match="norm must be 1 or 2, got 3"):
        WeightMagnitude(3)  # type: ignore[arg-type]


def test_another_network_is_refused() -> None:
    with pytest.raises(CriterionError, match="has no weights that produce a prunable group"):
        WeightMagnitude().score(torch.nn.ReLU(), BY_NAME["chain"].graph)


def test_a_layer_that_consumes_what_it_produces_counts_by_its_filters_alone() -> None:
    architecture = BY_NAME["module used twice"]
    model = architecture.network(0, torch.float64)
    scores = WeightMagnitude(1).score(model, architecture.graph)
    filters = model.stem.weight.detach(), model.shared.weight.detach()
    expected = sum(weight.abs().sum((1, 2, 3)) for weight in filters)
    torch.testing.assert_close(scores["stem"], expected)
