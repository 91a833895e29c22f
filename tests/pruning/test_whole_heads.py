"""Attention that loses whole heads, where its code gets by with fewer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping

import pytest
import torch
from gating import difference, gated, random_plan
from networks import Branches, Scales, chain, conv, randomised
from torch import Tensor, nn
from zoo_architectures import KeptHeads, SeparateHeads, TripledHeads

from copycat import WidthProfile, build
from copycat.build import graph_for
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
    prune,
    remove_channels,
    trace,
)
from pruning.criteria import Taylor, WeightMagnitude
from pruning.gates.channel_gates import ChannelGates

IMAGE = (1, 3, 12, 12)
EXAMPLE = torch.zeros(IMAGE)


class Biased(nn.Module):
    """Attention whose heads add a bias of their own, and a mask that they share (Swin)."""

    def __init__(self, inputs: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.qkv = nn.Linear(inputs, 3 * heads * head_width)
        self.bias = nn.Parameter(torch.zeros(7, heads))
        self.register_buffer("mask", torch.rand(4, 4, 4))
        self.register_buffer("places", torch.randint(7, (4, 4)))
        self.last = nn.Linear(heads * head_width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).reshape(-1, 4, x.shape[1])  # windows of 4 places
        shape = (len(x), 4, 3, self.heads, self.head_width)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.places.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) + bias
        scores = scores.view(-1, 4, self.heads, 4, 4) + self.mask[:, None]
        attended = scores.view(-1, self.heads, 4, 4).softmax(-1) @ v
        return self.last(attended.transpose(1, 2).reshape(len(x), 4, -1)).mean((0, 1))


class Attending(nn.Module):
    """A block of a transformer in which the number of heads is kept (ViT)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, places = x.shape[:2]
        shape = (n, places, 3, self.heads, self.head_width)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        attended = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return x + self.project(attended.transpose(1, 2).flatten(2))


def transformer(width: int = 12, heads: int = 3) -> nn.Module:
    return Branches(
        lambda net, x: net.last(net.second(net.first(net.embed(x).flatten(2).mT)).mean(1)),
        embed=conv(3, width, 4, stride=4),
        first=Attending(width, heads),
        second=Attending(width, heads),
        last=nn.Linear(width, 4),
    )


def embedded(attention: nn.Module, width: int = 5) -> nn.Module:
    return chain(embed=conv(3, width, 4, stride=4), attention=attention)


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, tuple[int, int]]]] = {
    "one layer": (lambda: embedded(KeptHeads(5, 12, 3)), {"attention.qkv.heads": (36, 12)}),
    "three layers": (
        lambda: embedded(SeparateHeads(6, 3), 6),
        {"attention.query.heads": (6, 2)},
    ),
    "queries, keys and values together in a head": (
        lambda: embedded(TripledHeads(6, 2)),
        {"attention.qkv.heads": (18, 6)},
    ),
    "a bias per head": (lambda: embedded(Biased(5, 3, 2)), {"attention.qkv.heads": (18, 6)}),
    "blocks": (
        transformer,
        {"first.qkv.heads": (36, 12), "second.qkv.heads": (36, 12)},
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def graph_of(name: str) -> ChannelGraph:
    return trace(NETWORKS[name][0](), EXAMPLE, whole_heads=True)


def heads_of(graph: ChannelGraph) -> dict[str, tuple[int, int]]:
    return {g.name: (g.width, g.unit) for g in graph.prunable if g.name.endswith(".heads")}


@every_network
@pytest.mark.parametrize("exact", [True, False])
def test_a_unit_is_a_head_with_all_that_belongs_to_it(name: str, exact: bool) -> None:
    make, expected = NETWORKS[name]
    graph = trace(make(), EXAMPLE, exact=exact, whole_heads=True)
    assert heads_of(graph) == expected
    assert not any(graph.group(group).inexact for group in expected)
    assert (graph.offered.exact, graph.offered.whole_heads) == (exact, True)
    assert heads_of(trace(make(), EXAMPLE, exact=exact)) == {}


@every_network
@pytest.mark.parametrize("seed", range(3))
def test_without_a_head_is_as_with_one_that_nobody_reads(name: str, seed: int) -> None:
    model, graph = randomised(NETWORKS[name][0](), seed).double().eval(), graph_of(name)
    x = torch.randn(IMAGE, dtype=torch.float64)
    plan = random_plan(graph, seed, keep_fraction=0.4)
    smaller = remove_channels(model, graph, plan)
    with torch.no_grad():
        assert difference(smaller(x), gated(model, graph, plan)(x)) < 1e-9
    assert measure_cost(smaller.float(), EXAMPLE) == graph.cost(plan.widths)


def test_what_holds_the_number_of_heads_follows() -> None:
    model = embedded(KeptHeads(5, 12, 3))
    plan = KeepPlan({"attention.qkv.heads": tuple(c for c in range(36) if c // 4 % 3 != 1)})
    smaller = remove_channels(model, graph_of("one layer"), plan).attention
    assert (smaller.heads, smaller.head_width, smaller.width) == (2, 4, 8)
    kept = [row for row in range(36) if row // 4 % 3 != 1]
    assert torch.equal(smaller.qkv.weight, model.attention.qkv.weight[kept])


def test_gates_of_heads_act_behind_them() -> None:
    """The derivative by a head's gate is what the loss depends on its output (Michel et al.)."""
    model = randomised(embedded(KeptHeads(5, 12, 3)), 1).double().eval()
    x = torch.randn(IMAGE, dtype=torch.float64)
    gates = ChannelGates(model, graph_of("one layer"), ["attention.qkv.heads"])
    read = torch.zeros(3, dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with gates.multiplying(ones):
        loss = model(x).square().sum()
    (found,) = torch.autograd.grad(loss, ones)
    step = 1e-6
    for head in range(3):
        changed = copy.deepcopy(model)
        columns = slice(4 * head, 4 * head + 4)
        with torch.no_grad():
            changed.attention.last.weight[:, columns] *= 1 + step
            read[head] = (changed(x).square().sum() - loss.detach()) / step
    assert torch.allclose(found, read, rtol=1e-3)


def as_wide_as_what_it_reads(net: nn.Module, x: Tensor) -> Tensor:
    x = net.embed(x).flatten(2).transpose(1, 2)
    n, places, width = x.shape
    q, k, v = net.qkv(x).reshape(n, places, 3, net.heads, net.size).permute(2, 0, 3, 1, 4)
    y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
    return net.last((x + net.project(y.transpose(1, 2).reshape(n, places, width))).mean(1))


def joined_to_its_stream() -> nn.Module:
    net = Branches(
        as_wide_as_what_it_reads,
        embed=conv(3, 6, 4, stride=4),
        qkv=nn.Linear(6, 18),
        project=nn.Sequential(nn.Linear(6, 6), Scales(6)),
        last=nn.Linear(6, 4),
    )
    net.heads, net.size = 2, 3
    return net


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        joined_to_its_stream,
        lambda: embedded(KeptHeads(5, 4, 1)),
        lambda: chain(embed=conv(3, 6), last=conv(6, 4)),
    ],
    ids=["as wide as the stream", "one head", "none"],
)
def test_where_heads_cannot_go_all_is_as_without(
    make: Callable[[], nn.Module], exact: bool
) -> None:
    usual = trace(make(), EXAMPLE, exact=exact)
    assert trace(make(), EXAMPLE, exact=exact, whole_heads=True).groups == usual.groups


def test_a_profile_of_heads_needs_no_graph() -> None:
    model, graph = embedded(KeptHeads(5, 12, 3)), graph_of("one layer")
    profile = WidthProfile({"embed": 4, "attention.qkv.heads": 12})
    assert profile.has_whole_heads
    assert graph_for(model, profile, EXAMPLE).offered.whole_heads
    fresh = build(model, profile, EXAMPLE)
    assert (fresh.attention.heads, fresh.attention.qkv.out_features) == (1, 12)
    assert WidthProfile.of_network(fresh, EXAMPLE, graph) == profile
    wider = build(model, WidthProfile({"attention.qkv.heads": 60}), EXAMPLE)
    assert wider.attention.heads == 5
    assert wider(EXAMPLE).shape == (1, 4)


def test_iterative_pruning_goes_down_to_one_head() -> None:
    groups = ("first.qkv.heads", "second.qkv.heads")
    model, pace = transformer(), Pace(minibatches=1, surgery_every=1)
    removable = Removable(groups, Rules(min_channels=1), whole_heads=True)
    least = trace(model, EXAMPLE, whole_heads=True).cost(dict.fromkeys(groups, 12))
    budget = Budget.parse(f"flops={least.flops}")
    pruner = IterativePruner(model, EXAMPLE, Taylor(), budget, pace, removable=removable)
    optimizer = torch.optim.SGD(pruner.network.parameters(), lr=0.01)
    while not pruner.is_finished:
        with pruner.watching(2):
            pruner.network(torch.randn(2, 3, 12, 12)).square().mean().backward()
        optimizer.step()
        pruner.after_step(optimizer)
    smaller = pruner.finish(optimizer)
    assert [smaller.first.heads, smaller.second.heads] == [1, 1]


def test_scaling_factors_of_heads() -> None:
    gates = ScalingFactors(transformer(), EXAMPLE, ["filter"], whole_heads=True)
    assert set(gates.gates["filter"]) == {"first.qkv.heads", "second.qkv.heads"}
    decision = gates.decide_to(Budget.parse("params=80%"), min_channels=1)
    smaller = gates.plain(decision)
    assert smaller.first.heads + smaller.second.heads < 6
    assert gates.cost(decision) == measure_cost(smaller, EXAMPLE)
    widths = gates.widths(decision)
    assert widths["first.qkv.heads"] == smaller.first.qkv.out_features


def test_one_call_prunes_heads() -> None:
    smaller = prune(transformer(), EXAMPLE, "params=80%", whole_heads=True, min_channels=1)
    assert smaller.first.qkv.out_features == 12 * smaller.first.heads
    assert smaller.first.heads + smaller.second.heads < 6


def test_magnitude_judges_each_head() -> None:
    scores = WeightMagnitude(2).score(transformer(), graph_of("blocks"))
    assert {len(scores[f"{block}.qkv.heads"]) for block in ("first", "second")} == {36}
