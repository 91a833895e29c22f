"""What may go where removal need not be exact: shapes fit, values may change, all is marked."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME, IMAGE, ONE_SAMPLE, Architecture
from gating import random_plan
from networks import (
    Attention,
    Branches,
    Scales,
    between,
    call,
    chain,
    conv,
    layer_normalised,
    randomised,
)
from torch import Tensor, nn
from torch.nn import functional as F

from copycat import WidthProfile, build
from pruning import (
    Budget,
    ChannelGraph,
    IterativePruner,
    KeepPlan,
    Pace,
    Removable,
    Rules,
    ScalingFactors,
    measure_cost,
    remove_channels,
    trace,
)
from pruning.criteria import Taylor
from pruning.errors import CriterionError, PlanError
from pruning.networks.copies import doubled

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)


class Eca(nn.Module):
    """Attention over channels by a convolution along them (ECA-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean((2, 3)).view(len(x), 1, -1)).sigmoid()
        return x * weights.view(len(x), -1, 1, 1)


class ResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt V2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = Scales(width)

    def forward(self, x: Tensor) -> Tensor:
        norms = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + self.scales(x * norms / (norms.mean(1, keepdim=True) + 1e-6))


class StandardisedConv(nn.Conv2d):
    """A convolution with standardised weights (BiT, NFNet)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=self.padding)


def as_wide_as_what_it_reads(net: nn.Module, x: Tensor) -> Tensor:
    """Attention whose heads share out the number of channels that it reads (Swin)."""
    x = net.embed(x).flatten(2).transpose(1, 2).contiguous()
    n, length, width = x.shape
    q, k, v = net.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    y = (q @ k.transpose(-2, -1) * (width // 2) ** -0.5).softmax(-1) @ v
    return net.last((x + net.project(y.transpose(1, 2).reshape(n, length, width))).mean(1))


def joined_as_wide_as_what_it_reads(net: nn.Module, x: Tensor) -> Tensor:
    """Attention in heads of a width that is kept, joined to as many channels as it reads (PVT)."""
    x = net.embed(x).flatten(2).transpose(1, 2)
    n, length, width = x.shape
    q = net.query(x).reshape(n, length, 2, -1).transpose(1, 2)
    k, v = net.pair(x).reshape(n, -1, 2, 2, net.head_width).permute(2, 0, 3, 1, 4).unbind(0)
    y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
    return net.last((x + net.project(y.transpose(1, 2).reshape(n, length, width))).mean(1))


def keeping_a_head_width(number: int, **layers: nn.Module) -> nn.Module:
    net = Branches(joined_as_wide_as_what_it_reads, **layers)
    net.head_width = number
    return net


def spatial_attention(net: nn.Module, x: Tensor) -> Tensor:
    """CBAM: what all channels have at most and on average."""
    y = net.first(x)
    both = torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)
    return net.last(y * net.mask(both).sigmoid())


def freed(graph: ChannelGraph) -> dict[str, tuple[int, int, str]]:
    """Width, unit and the reason of every group that only inexact removal offers."""
    return {g.name: (g.width, g.unit, g.inexact) for g in graph.prunable if g.inexact}


@pytest.mark.parametrize(
    ("model", "name", "width", "unit", "reason"),
    [
        (
            chain(first=conv(3, 6), norm=nn.GroupNorm(1, 6), last=conv(6, 4)),
            "first",
            6,
            1,
            "one normalisation runs over all channels",
        ),
        (between(lambda x: x.softmax(1)), "first", 6, 1, "a softmax runs over these channels"),
        (between(lambda x: x / x.shape[1]), "first", 6, 1, "computed from the number"),
        (between(lambda x: F.normalize(x, dim=1)), "first", 6, 1, "reduced over all channels"),
        (chain(first=conv(3, 6), eca=Eca(), last=conv(6, 4)), "first", 6, 1, "convolved over"),
        (
            chain(first=conv(3, 6), norm=ResponseNorm(6), last=conv(6, 4)),
            "first",
            6,
            1,
            "reduced over all channels",
        ),
        (
            chain(first=conv(3, 6), norm=StandardisedConv(6, 5, 3, padding=1), last=conv(5, 4)),
            "first",
            6,
            1,
            "standardised",
        ),
        (
            Branches(spatial_attention, first=conv(3, 6), mask=conv(2, 1), last=conv(6, 4)),
            "first",
            6,
            1,
            "reduced over all channels",
        ),
        (
            Branches(
                as_wide_as_what_it_reads,
                embed=conv(3, 6, 4, stride=4),
                qkv=nn.Linear(6, 18),
                project=nn.Linear(6, 6),
                last=nn.Linear(6, 4),
            ),
            "embed",
            6,
            2,
            "computed from the number",
        ),
        (
            keeping_a_head_width(
                3,
                embed=conv(3, 6, 4, stride=4),
                query=nn.Linear(6, 6),
                pair=nn.Linear(6, 12),
                project=nn.Sequential(nn.GELU(), nn.Linear(6, 6), nn.LayerNorm(6)),
                last=nn.Linear(6, 4),
            ),
            "embed",
            6,
            2,
            "layer normalisation",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_only_changes_values_is_offered(
    model: nn.Module, name: str, width: int, unit: int, reason: str
) -> None:
    exact, inexact = trace(model, torch.zeros(IMAGE)), trace(model, torch.zeros(IMAGE), exact=False)
    assert exact.group(name).pinned is not None
    found = freed(inexact)[name]
    assert found[:2] == (width, unit)
    assert reason in found[2]
    assert f"inexactly: {found[2]}" in inexact.describe()
    plan = KeepPlan({name: (0, 1, 3, 4) if unit == 2 else (1, 4)})
    smaller = remove_channels(model, inexact, plan)
    assert smaller(torch.randn(IMAGE)).shape == model(torch.randn(IMAGE)).shape


def test_the_embedding_of_a_transformer() -> None:
    model = Branches(
        lambda net, x: net.last(net.block(net.embed(x).flatten(2).transpose(1, 2)).mean(1)),
        embed=conv(3, 6, 4, stride=4),
        block=Attention(),
        last=nn.Linear(6, 4),
    )
    graph = trace(model, torch.zeros(IMAGE), exact=False)
    assert "layer normalisation" in str(graph.group("embed").inexact)
    smaller = remove_channels(model, graph, KeepPlan({"embed": (0, 2, 3)}))
    assert smaller.block.norm.normalized_shape == (3,)


def test_multihead_attention_loses_the_same_channels_of_every_head() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = Branches(
        lambda net, x: net.last(net.block(net.embed(x).flatten(2).transpose(1, 2)).mean(1)),
        embed=conv(3, 8, 4, stride=4),
        block=layer,
        last=nn.Linear(8, 4),
    )
    graph = trace(model, torch.zeros(IMAGE), exact=False)
    group = graph.group("embed")
    assert (group.pinned, group.width, group.unit) == (None, 8, 2)
    smaller = remove_channels(model, graph, KeepPlan({"embed": (0, 1, 4, 5)}))
    assert smaller(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_a_whole_transformer_loses_the_channels_of_its_stream() -> None:
    model = Branches(
        lambda net, x: net.last(net.whole(net.source(x), net.target(x)).mean(1)),
        source=nn.Linear(5, 8),
        target=nn.Linear(5, 8),
        whole=nn.Transformer(8, 2, 1, 1, 12, batch_first=True),
        last=nn.Linear(8, 4),
    )
    graph = trace(model, torch.zeros(1, 3, 5), exact=False)
    smaller = remove_channels(model, graph, KeepPlan({"source": (0, 1, 4, 5)}))
    assert smaller.whole.d_model == 4
    assert smaller(torch.randn(2, 3, 5)).shape == (2, 4)


@functools.cache
def inexact_graph(name: str) -> ChannelGraph:
    architecture = BY_NAME[name]
    return trace(architecture.make(), architecture.example(), exact=False)


@every_architecture
def test_what_may_go_exactly_may_go_anyway(architecture: Architecture) -> None:
    """Under the same name, and unmarked; what else may go has a name and a width there, too."""
    found = inexact_graph(architecture.name)
    exact = {g.name: (g.width, g.unit) for g in architecture.graph.prunable}
    unmarked = {g.name: (g.width, g.unit) for g in found.prunable if g.inexact is None}
    assert unmarked == exact
    for group in found.prunable:
        assert architecture.graph.widths[group.name] == group.width
    assert (found.offered.exact, architecture.graph.offered.exact) == (False, True)


@every_architecture
def test_smaller_networks_run_and_cost_what_was_predicted(architecture: Architecture) -> None:
    model, graph = architecture.network(), inexact_graph(architecture.name)
    plan = random_plan(graph, 0)
    smaller = remove_channels(model, graph, plan)
    fresh = build(model, WidthProfile(plan.widths), architecture.example(), graph=graph)
    for network in (smaller, fresh):
        call(network, architecture.example())
        if architecture.name not in ONE_SAMPLE:
            call(copy.deepcopy(network).train(), doubled(architecture.example()))
        params = sum(parameter.numel() for parameter in network.parameters())
        assert graph.cost(plan.widths).params == params


@pytest.mark.parametrize("between", [nn.GroupNorm(1, 9), Eca()], ids=["norm", "convolution"])
def test_flops_follow_inexact_widths(between: nn.Module) -> None:
    model = randomised(chain(first=conv(3, 9), between=between, last=conv(9, 4)))
    graph = trace(model, torch.zeros(IMAGE), exact=False)
    plan = KeepPlan({"first": (0, 5)})
    smaller = remove_channels(model, graph, plan)
    assert graph.cost(plan.widths) == measure_cost(smaller, torch.zeros(IMAGE))


def test_sizes_that_are_written_down_stay() -> None:
    graph = trace(BY_NAME["split by a ratio"].make(), torch.zeros(IMAGE), exact=False)
    assert graph.group("first").pinned is not None
    model = between(lambda x: x.softmax(1).view(1, 6, 8, 8))
    assert "written" in str(trace(model, torch.zeros(IMAGE), exact=False).group("first").pinned)


def test_a_plan_tells_what_it_narrows_inexactly() -> None:
    graph = trace(layer_normalised(), torch.zeros(IMAGE), exact=False)
    why = {"first": "one normalisation runs over all channels"}
    assert graph.narrowed_inexactly(KeepPlan({"first": (0,), "second": (1,)}).widths) == why
    for widths in ({}, {"first": 6, "second": 1}, {"first": 7}):
        assert graph.narrowed_inexactly(widths) == {}
    with pytest.raises(PlanError, match="no channel group 'third'"):
        graph.narrowed_inexactly({"third": 1})


def test_a_profile_is_read_off_and_built_without_a_graph() -> None:
    model, example = layer_normalised(), torch.zeros(IMAGE)
    graph = trace(model, example, exact=False)
    plan = KeepPlan({"first": (0, 5), "second": (0, 1, 2)})
    profile = WidthProfile(plan.widths)
    assert profile.fits(graph)
    assert not profile.fits(trace(model, example))
    smaller = remove_channels(model, graph, plan)
    assert WidthProfile.of_network(smaller, example, graph) == profile
    fresh = build(model, profile, example)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in smaller.parameters()]


def test_scaling_factors_reach_what_they_are_let() -> None:
    model = chain(first=conv(3, 6), norm=nn.GroupNorm(1, 6), last=conv(6, 4))
    with pytest.raises(CriterionError, match="no filter to gate"):
        ScalingFactors(model, torch.zeros(IMAGE), ["filter"])
    gated = ScalingFactors(model, torch.zeros(IMAGE), ["filter"], exact=False)
    decision = gated.decide_to(Budget.parse("params=60%"))
    smaller = gated.plain(decision)
    assert 3 <= smaller.first.out_channels < 6
    assert smaller(torch.randn(IMAGE)).shape == model(torch.randn(IMAGE)).shape
    assert gated.cost(decision) == measure_cost(smaller, torch.zeros(IMAGE))


def test_iterative_pruning_reaches_it_and_goes_on() -> None:
    """Each graph after the first is made as the first."""
    model, pace = layer_normalised(), Pace(minibatches=1, surgery_every=1)
    budget = Budget.parse("params=25%")
    removable = Removable(("first",), Rules(min_channels=1), exact=False)
    pruner = IterativePruner(model, torch.zeros(IMAGE), Taylor(), budget, pace, removable=removable)
    optimizer = torch.optim.SGD(pruner.network.parameters(), lr=0.01)
    while not pruner.is_finished:
        with pruner.watching(2):
            pruner.network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        pruner.after_step(optimizer)
    smaller = pruner.finish(optimizer)
    assert smaller.first.out_channels == len(pruner.plan.keep["first"]) < 5
