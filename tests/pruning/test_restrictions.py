"""What may not go: by layer and by share, in selection, gates, structures and after pruning."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from networks import chain, conv, randomised
from torch import nn

import pruning
from pruning import Budget, Restrictions, Structure, least_widths, structures
from pruning.errors import ConfigError, PlanError, UnreachableBudgetError
from pruning.scaling_factors.scaling_factors import ScalingFactors
from search.models import resnet20

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    layers = {
        "first": conv(3, 16),
        "relu": nn.ReLU(),
        "deep": nn.Sequential(conv(16, 10), nn.BatchNorm2d(10), conv(10, 16)),
        "last": conv(16, 4),
    }
    return randomised(chain(**layers), seed=1)


def scores_of(model: nn.Module, graph: pruning.ChannelGraph) -> dict[str, torch.Tensor]:
    return pruning.criteria.WeightMagnitude().score(model, graph)


@pytest.mark.parametrize("pattern", ["deep.1", "deep.1*", "*.1", "d??p.[1]"])
def test_what_is_ignored_is_pinned_and_says_by_what(model: nn.Module, pattern: str) -> None:
    graph = Restrictions(ignore=(pattern,)).of(pruning.trace(model, IMAGE))
    assert [group.name for group in graph.prunable] == ["first", "deep.2"]
    assert graph.group("deep.0").pinned == f"ignored ({pattern})"
    assert f"no: ignored ({pattern})" in graph.describe()


def test_a_module_means_all_inside_it(model: nn.Module) -> None:
    """What its layers produce, and what they read."""
    graph = Restrictions(ignore=("deep",)).of(pruning.trace(model, IMAGE))
    assert graph.prunable == ()


@pytest.mark.parametrize(("share", "left"), [(0.5, 5), (0.3, 7), (0.25, 8), (0, 10), (0.99, 1)])
def test_a_cap_leaves_its_share_rounded_up(model: nn.Module, share: float, left: int) -> None:
    graph = pruning.trace(model, IMAGE)
    capped = Restrictions(max_removed={"deep.0": share}).of(graph)
    assert capped.group("deep.0").floor() == left
    plan = pruning.select(
        scores_of(model, graph),
        graph,
        Budget.parse("channels=75%"),
        min_channels=1,
        max_removed={"deep.0": share},
    )
    assert len(plan.keep["deep.0"]) >= left
    if left > 1:
        with pytest.raises(PlanError, match=f"^group 'deep.0' needs at least {left} channels, got"):
            capped.cost({"deep.0": left - 1})


def test_the_least_of_several_caps_counts(model: nn.Module) -> None:
    caps = {"deep.*": 0.5, "deep.0": 0.2, "*": 0.9}
    graph = Restrictions(max_removed=caps).of(pruning.trace(model, IMAGE))
    assert {g.name: g.min_units for g in graph.prunable} == {"first": 2, "deep.0": 8, "deep.2": 8}
    assert "yes, at least 8 channels: at most 20% of its 10 may go (max_removed deep.0)" in (
        graph.describe()
    )


def test_only_what_these_layers_produce_is_pruned(model: nn.Module) -> None:
    graph = Restrictions(only=("deep.*",)).of(pruning.trace(model, IMAGE))
    assert [group.name for group in graph.prunable] == ["deep.0", "deep.2"]
    assert graph.group("first").pinned == "not asked for (only deep.*)"
    smaller = pruning.prune(model, IMAGE, "channels=50%", only=["deep.2", "deep.0"])
    widths = [smaller.get_submodule(name).out_channels for name in ("first", "deep.0", "deep.2")]
    assert widths[0] == 16
    assert sum(widths[1:]) == 13  # of 10 and 16


def test_a_stream_that_other_layers_produce_too_is_not_asked_for() -> None:
    """The stem's, conv1, is that of the first stage as well."""
    inside = {f"stage{stage}.block{block}.conv1" for stage in (1, 2, 3) for block in range(3)}
    streams = ("stage2.block0.conv2", "stage3.block0.conv2")
    for only, names in [
        (("*.conv1",), inside),
        (("*.conv1", "stage?.*.conv2"), {*inside, *streams}),
        (("*conv1", "stage?.*.conv2"), {*inside, *streams, "conv1"}),
    ]:
        graph = Restrictions(only=only).of(resnet20_graph())
        assert {group.name for group in graph.prunable} == names


@functools.cache
def resnet20_graph() -> pruning.ChannelGraph:
    return pruning.trace(resnet20(), torch.zeros(1, 3, 16, 16))


def test_floors_and_selection_keep_to_them(model: nn.Module) -> None:
    graph = pruning.trace(model, IMAGE)
    restricted = Restrictions(("first",), {"deep.0": 0.5}).of(graph)
    names = [group.name for group in restricted.prunable]
    assert least_widths(restricted, names) == {"deep.0": 5, "deep.2": 3}
    least = restricted.cost({"deep.0": 5, "deep.2": 3})
    rules: dict[str, Any] = {"ignore": ["first"], "max_removed": {"deep.0": 0.5}}
    budget = Budget.parse(f"flops={least.flops}")
    plan = pruning.select(scores_of(model, graph), graph, budget, **rules)
    assert plan.widths == {"deep.0": 5, "deep.2": 3}
    with pytest.raises(UnreachableBudgetError, match=f"nearest reachable: {least.flops:,}"):
        pruning.select(
            scores_of(model, graph), graph, Budget.parse(f"flops={least.flops - 1}"), **rules
        )


def test_pruning_in_one_call_keeps_to_them(model: nn.Module) -> None:
    smaller = pruning.prune(
        model, IMAGE, "flops=60%", ignore=["first"], max_removed={"deep.0": 0.1}
    )
    assert smaller.get_submodule("first").out_channels == 16
    assert smaller.get_submodule("deep.0").out_channels >= 9
    assert smaller.get_submodule("deep.2").out_channels < 10


def test_shares_refer_to_the_network_before_pruning(model: nn.Module) -> None:
    graph = pruning.trace(model, IMAGE)
    smaller = pruning.remove_channels(model, graph, pruning.KeepPlan({"deep.0": tuple(range(6))}))
    again = Restrictions(max_removed={"deep.0": 0.5}).of(pruning.trace(smaller, IMAGE), graph)
    assert again.group("deep.0").floor() == 5


@pytest.mark.parametrize(
    ("restrictions", "message"),
    [
        (Restrictions(("frist",)), r"ignore names 'frist', which is no layer with channels of the"),
        (Restrictions(("frist",)), r": did you mean first"),
        (Restrictions(("deep.9.*",)), r"ignore names 'deep\.9\.\*'.*did you mean deep\.2, deep"),
        (Restrictions(("relu",)), r"ignore names 'relu', which is no layer with channels"),
        (Restrictions(max_removed={"x": 0.5}), r"max_removed names 'x', which is no layer with"),
        (Restrictions(only=("deep.3",)), r"only names 'deep\.3'.*did you mean deep\.2, deep\.0"),
    ],
)
def test_patterns_that_fit_no_layer_are_refused(
    model: nn.Module, restrictions: Restrictions, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        restrictions.check(pruning.trace(model, IMAGE))
    assert "\n" not in str(caught.value)
    assert caught.value.field in ("ignore", "max_removed", "only")


def test_texts_are_read() -> None:
    made = Restrictions.parse(["a.*"], ["layer4.*=50%", " b = 12.5 % ", "c=d=0%"], ["*.x"])
    assert made == Restrictions(("a.*",), {"layer4.*": 0.5, "b": 0.125, "c=d": 0.0}, ("*.x",))
    assert made.inside("m").only == ("m.*.x",)
    for text in ("layer4", "layer4=50", "=50%", "layer4=fifty%", "layer4=-5%"):
        with pytest.raises(ConfigError, match="max_removed must be PATTERN=SHARE, such as"):
            Restrictions.parse([], [text])
    with pytest.raises(ConfigError, match=r"max_removed of 'a' must be a share from 0 to 1, got 2"):
        Restrictions.parse([], ["a=200%"])


@pytest.mark.parametrize(
    "restrictions",
    [
        Restrictions(("stage1.block1.conv1",)),
        Restrictions(max_removed={"stage1.block1": 0.5}),
        Restrictions(only=("stage1.block[!1]", "stage[!1].*")),
    ],
    ids=["ignored inside", "capped as a whole", "not asked for"],
)
def test_structures_that_hold_what_is_restricted_stay(restrictions: Restrictions) -> None:
    model, image = resnet20(), torch.zeros(1, 3, 16, 16)
    all_of_them = structures(model, image, ["branch", "layer"])
    left = structures(model, image, ["branch", "layer"], restrictions)
    gone = set(all_of_them) - set(left)
    assert Structure("branch", "stage1.block1") in gone
    assert all(structure.name.startswith("stage1.block1") for structure in gone)
    assert Structure("branch", "stage1.block0") in left


def test_gates_keep_to_them(model: nn.Module) -> None:
    restrictions = Restrictions(("first",), {"deep.0": 0.5})
    factors = ScalingFactors(model, IMAGE, ["filter"], restrictions=restrictions)
    assert set(factors.gates["filter"]) == {"deep.0", "deep.2"}
    decision = factors.decide(2.0)  # above all gates: whatever may go goes
    assert {name: len(kept) for name, kept in decision.keep.keep.items()} == {
        "deep.0": 5,
        "deep.2": 3,
    }
