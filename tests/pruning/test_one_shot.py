"""Pruning in one call: what comes out is what its parts give, and what is ignored stays whole."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import chain, conv, randomised
from torch import nn

import pruning
from pruning.errors import ConfigError, CriterionError, UnreachableBudgetError

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    return randomised(
        chain(
            first=conv(3, 16),
            norm=nn.BatchNorm2d(16),
            second=conv(16, 16),
            relu=nn.ReLU(),
            third=conv(16, 16),
            last=conv(16, 4),
        ),
        seed=1,
    )


@pytest.mark.parametrize("target", ["flops=50%", "flops=60% params=3k"])
def test_the_target_is_met_and_the_network_left_alone(model: nn.Module, target: str) -> None:
    before = copy.deepcopy(model.state_dict())
    base = pruning.measure_cost(model, IMAGE)
    smaller = pruning.prune(model, IMAGE, target)
    limits = pruning.Budget.parse(*target.split()).absolute(base)
    assert limits.allows(pruning.measure_cost(smaller, IMAGE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_what_the_parts_give(model: nn.Module) -> None:
    criterion, target = pruning.criteria.Taylor(), pruning.Budget.parse("channels=75%")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    batches = [(images, torch.randint(4, (8, 8, 8), generator=generator))]
    smaller = pruning.prune(model, IMAGE, target, criterion=criterion, batches=batches)
    graph = pruning.trace(model, IMAGE)
    plan = pruning.select(criterion.score(model, graph, batches), graph, target)
    expected = pruning.remove_channels(model, graph, plan)
    assert torch.equal(smaller.eval()(images), expected.eval()(images))


@pytest.mark.parametrize("ignored", ["second", "sec*", "module"])
def test_what_is_ignored_keeps_its_channels(model: nn.Module, ignored: str) -> None:
    """Those that it produces, and those that it reads."""
    what = model.get_submodule("second") if ignored == "module" else ignored
    smaller = pruning.prune(model, IMAGE, "flops=80%", ignore=[what])
    assert smaller.get_submodule("second").weight.shape == (16, 16, 3, 3)
    assert smaller.get_submodule("third").out_channels < 16


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (
            "secnd",
            "ignore names 'secnd', which is no layer with channels of the .* you mean second",
        ),
        (nn.ReLU(), "ignore names a ReLU, which is no layer of the network"),
    ],
)
def test_a_layer_that_is_none_is_refused(
    model: nn.Module, ignored: str | nn.Module, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pruning.prune(model, IMAGE, "flops=50%", ignore=[ignored])


def test_what_cannot_be_met_or_judged_is_refused(model: nn.Module) -> None:
    with pytest.raises(UnreachableBudgetError, match="nearest reachable"):
        pruning.prune(model, IMAGE, "flops=1%")
    with pytest.raises(CriterionError, match="needs labelled data"):
        pruning.prune(model, IMAGE, "flops=50%", criterion=pruning.criteria.Taylor())
