"""Costs in closed form against fvcore's count, and the widths that a graph allows."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME, PRUNABLE, Architecture
from gating import plans, random_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Branches, chain, conv, head
from torch import Tensor, nn

from copycat import WidthProfile, build
from pruning import ChannelGraph, measure_cost, remove_channels, trace
from pruning.errors import PlanError

COUNTABLE = tuple(a for a in ARCHITECTURES if not isinstance(a.shapes, dict))
every_countable = pytest.mark.parametrize("architecture", COUNTABLE, ids=str)


@every_countable
def test_the_closed_form_is_fvcores_count(architecture: Architecture) -> None:
    assert architecture.graph.cost() == measure_cost(architecture.network(), architecture.example())


@pytest.mark.parametrize("architecture", [a for a in PRUNABLE if a in COUNTABLE], ids=str)
@settings(max_examples=2)
@given(data=st.data())
def test_narrower_networks_cost_what_the_closed_form_says(
    architecture: Architecture, data: st.DataObject
) -> None:
    graph = architecture.graph
    plan = data.draw(plans(graph))
    smaller = remove_channels(architecture.network(), graph, plan)
    cost, measured = graph.cost(plan.widths), measure_cost(smaller, architecture.example())
    assert cost == measured
    assert cost.weight_bytes == measured.weight_bytes


@pytest.mark.parametrize("architecture", [a for a in PRUNABLE if a in COUNTABLE], ids=str)
def test_wider_networks_cost_what_the_closed_form_says(architecture: Architecture) -> None:
    graph = architecture.graph
    widths = {g.name: g.width + (i % 3 + 1) * g.unit for i, g in enumerate(graph.prunable)}
    wider = build(architecture.network(), WidthProfile(widths), architecture.example(), graph=graph)
    assert graph.cost(widths) == measure_cost(wider, architecture.example())


def test_bytes_by_hand() -> None:
    """The input and the first two maps; a map is needed while the next one is made."""
    model = chain(first=conv(3, 6), second=conv(6, 5), last=conv(5, 4))
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    for a, b in ((6, 5), (2, 5), (6, 1), (9, 9)):
        cost = graph.cost({"first": a, "second": b})
        assert cost.peak_activation_bytes == 4 * 64 * max(3 + a, a + b, b + 4)
        assert cost.weight_bytes == 4 * cost.params
    double = trace(model.double(), torch.zeros(1, 3, 8, 8, dtype=torch.float64)).cost()
    assert double.peak_activation_bytes == 8 * 64 * 11
    assert double.weight_bytes == 8 * double.params


def test_a_shortcut_is_alive_as_long_as_its_branch() -> None:
    """The shortcut of 6 channels with the branch before, in or after its hidden 5."""
    model = Branches(
        lambda net, x: net.last((y := net.stem(x)) + net.b(net.a(y).relu())),
        stem=conv(3, 6),
        a=conv(6, 5),
        b=conv(5, 6),
        last=conv(6, 4),
    )
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    for stem, a in ((6, 5), (6, 20), (2, 5), (1, 1)):
        alive = max(3 + stem, stem + a + a, stem + a + stem, 3 * stem, stem + 4)
        cost = graph.cost({"stem": stem, "a": a})
        assert cost.peak_activation_bytes == 4 * 64 * alive


def test_keyword_inputs_cost_what_positional_ones_do() -> None:
    by_name, by_position = BY_NAME["keyword inputs"].graph, BY_NAME["several inputs"].graph
    assert by_name.cost({"image": 3}) == by_position.cost({"image": 3})


def test_the_cost_of_a_chain_by_hand() -> None:
    model = chain(first=conv(3, 6), bn=nn.BatchNorm2d(6), second=conv(6, 5, stride=2), head=head(5))
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    for a in (1, 4, 6, 9):
        for b in (1, 5, 8):
            cost = graph.cost({"first": a, "second": b})
            assert cost.params == 27 * a + a + 2 * a + 9 * a * b + b + 4 * b + 4
            assert cost.flops == 64 * 27 * a + 2 * 64 * a + 16 * 9 * a * b + 16 * b + 4 * b


def test_groups_that_are_left_out_keep_their_width() -> None:
    graph = BY_NAME["dense block"].graph
    assert graph.cost({}) == graph.cost() == graph.cost(graph.widths)
    assert graph.cost({"grow1": 2}) == graph.cost({**graph.widths, "grow1": 2})


def test_large_counts_are_exact() -> None:
    model = chain(first=conv(3, 6), second=conv(6, 5), head=head(5))
    graph = trace(model, torch.empty(1, 3, 4096, 4096, device="meta"))
    a, b = 4099, 3001
    flops = 4096**2 * (27 * a + 9 * a * b + b) + 4 * b
    assert flops > 2**50
    assert graph.cost({"first": a, "second": b}).flops == flops


@pytest.fixture
def graph() -> ChannelGraph:
    return BY_NAME["group normalisation"].graph


def test_units_at(graph: ChannelGraph) -> None:
    assert [graph.units_at("first", width) for width in (3, 9, 12, 30)] == [1, 3, 4, 10]
    assert graph.units_at("last", 4) == 4


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("first", 0, "group 'first' needs at least 1 channel, got 0"),
        ("first", -3, "group 'first' needs at least 1 channel, got -3"),
        ("first", 8, "in units of 3, got width 8: choose a multiple of 3"),
        ("last", 3, "group 'last' is pinned at 4 channels, got 3: the network's output"),
        ("frist", 3, "this network has no channel group 'frist': did you mean first"),
        ("zzz", 3, "this network has no channel group 'zzz': see graph.groups for the names"),
    ],
)
def test_widths_that_are_refused(graph: ChannelGraph, name: str, width: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        graph.units_at(name, width)
    with pytest.raises(PlanError, match=message):
        graph.cost({name: width})


def test_a_graph_can_be_pickled(graph: ChannelGraph) -> None:
    again = pickle.loads(pickle.dumps(graph))
    assert again.groups == graph.groups
    assert again.cost({"first": 6}) == graph.cost({"first": 6})
    model = BY_NAME["group normalisation"].network()
    plan = random_plan(graph, seed=0)
    smaller = remove_channels(model, again, plan)
    assert smaller.first.weight.shape[0] == plan.widths["first"]


def test_groups_are_in_the_order_of_the_network() -> None:
    graph = BY_NAME["inception"].graph
    assert [graph.index(group.name) for group in graph.groups] == list(range(len(graph.groups)))
    assert list(graph.widths) == ["stem", "narrow", "reduce", "wide", "pool", "head.fc"]
    assert [group.name for group in graph.prunable] == list(graph.widths)[:-1]


def test_the_summary_is_json_and_its_shares_are_what_a_group_costs() -> None:
    model = chain(first=conv(3, 6), second=conv(6, 5, stride=2), head=head(5))
    content = json.loads(json.dumps(trace(model, torch.zeros(1, 3, 8, 8)).summary(min_channels=2)))
    flops, params = 64 * 162 + 16 * 270 + 80 + 20, 162 + 6 + 270 + 5 + 20 + 4
    assert (content["base"]["flops"], content["base"]["params"]) == (flops, params)
    assert content["reachable"]["params"] == 54 + 2 + 36 + 2 + 8 + 4
    first, second, last = content["groups"]
    assert first["flops_share"] == pytest.approx((64 * 162 + 16 * 270) / flops)
    assert second["params_share"] == pytest.approx((270 + 5 + 20) / params)
    assert [group["prunable"] for group in content["groups"]] == [True, True, False]
    assert last["pinned"] == "the network's output"
    assert (content["channels"], content["channels_with_residual"]) == (11, 11)
    assert first["layers"] == ["first", "second"]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_description_has_a_line_for_every_group(architecture: Architecture) -> None:
    graph = architecture.graph
    lines = graph.describe().splitlines()
    assert lines[0].startswith("base network")
    assert "multiply-adds" in lines[0]
    for group, line in zip(graph.groups, lines[5:], strict=False):
        cells = line.split()
        assert cells[:2] == [group.name, str(group.width)]
        if group.pinned is not None:
            assert line.endswith(f"no: {group.pinned}")


def test_channels_are_those_of_the_layers_that_are_pruned() -> None:
    """The stem and b make a stream of 6 channels, between them a has 5."""
    graph = BY_NAME["identity shortcut"].graph
    assert graph.cost().channels is None
    for names, channels, narrowed in [(["a"], 5, 3), (["stem"], 12, 8), (["stem", "a"], 17, 11)]:
        told = graph.pruning(names)
        assert {group.name for group in told.pruned} == set(names)
        assert told.cost().channels == channels
        assert told.cost({"stem": 4, "a": 3}).channels == narrowed
        assert told.with_groups({}).cost().channels == channels
        assert pickle.loads(pickle.dumps(told)).cost().channels == channels
    assert [group.name for group in graph.pruned] == ["a"]
    lines = graph.describe().splitlines()
    assert lines[2] == "prunable      5 channels; 17 with residual streams"
    with pytest.raises(PlanError, match="no channel group 'c'"):
        graph.pruning(["c"])


def test_floors_are_whole_units_that_hold_so_many_channels() -> None:
    first = BY_NAME["group normalisation"].graph.group("first")
    assert (first.width, first.unit) == (12, 3)
    assert [first.floor(least) for least in (1, 3, 4, 12, 99)] == [1, 1, 2, 4, 4]


class NeedsThree(nn.Module):
    """Refuses to run with fewer than three channels between its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        if inner.shape[1] < 3:
            raise ValueError("too narrow")
        return self.last(inner)


def test_the_least_width_that_the_code_allows_is_told() -> None:
    graph = trace(NeedsThree(), torch.zeros(1, 3, 8, 8))
    (first, _) = graph.summary()["groups"]
    assert (first["min_width"], first["prunable"]) == (3, True)
    assert "yes, at least 3 channels" in graph.describe()
