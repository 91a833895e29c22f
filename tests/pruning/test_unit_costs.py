"""What a unit less costs, and how many have to go."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pruning import Budget, ChannelGraph, Rules, trace
from pruning.unit_costs import costs_without_a_unit, fewest_units, flops_saved


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    """Groups 0 (6 channels), 1 (4) and 2 (5) in a row, on 4×4 images."""
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 6), (6, 4), (4, 5), (5, 3))]
    return trace(nn.Sequential(*convolutions), torch.zeros(1, 2, 4, 4))


NAMES = ("0", "1", "2")


def test_a_unit_saves_what_is_made_and_what_is_read_of_it(graph: ChannelGraph) -> None:
    per_weight = 9 * 16  # kernel and positions
    assert flops_saved(graph, NAMES) == {
        "0": per_weight * (2 + 4),
        "1": per_weight * (6 + 5),
        "2": per_weight * (4 + 3),
    }
    assert flops_saved(graph, ["1"], {"0": 3, "2": 1}) == {"1": per_weight * (3 + 1)}


def test_a_group_that_cannot_lose_any_more_saves_nothing(graph: ChannelGraph) -> None:
    assert flops_saved(graph, NAMES, {"1": 1})["1"] == 0
    assert set(costs_without_a_unit(graph, NAMES, {"1": 1})) == {"0", "2"}


@pytest.mark.parametrize("budget", ["flops=75%", "flops=40%", "params=50%", "flops=60% params=30%"])
def test_no_fewer_units_than_that_meet_a_budget(graph: ChannelGraph, budget: str) -> None:
    """Held against all there are; the bound is no looser than what one unit after another saves."""
    limits = Budget.parse(*budget.split()).absolute(graph.cost())
    shapes = itertools.product(*(range(2, graph.group(name).width + 1) for name in NAMES))
    needed = min(
        sum(graph.widths[name] for name in NAMES) - sum(widths)
        for widths in shapes
        if limits.allows(graph.cost(dict(zip(NAMES, widths, strict=True))))
    )
    fewest = fewest_units(graph, NAMES, limits, Rules(min_channels=2))
    assert needed / 2 <= fewest <= needed


def test_what_is_met_already_needs_none(graph: ChannelGraph) -> None:
    limits = Budget.parse("flops=100%", "peak_activation_bytes=10").absolute(graph.cost())
    assert fewest_units(graph, NAMES, limits) == 0
