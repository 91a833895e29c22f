"""Learnable gates: what they compute, what they decide, and what is left without them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Collection

import pytest
import torch
import torchvision
from gated_networks import images, residual
from gating import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Attention, chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import Budget, measure_cost, trace
from pruning.errors import ConfigError, CriterionError, PlanError, UnreachableBudgetError
from pruning.scaling_factors.gating import Gating, Granularity
from pruning.scaling_factors.scaling_factors import Decision, ScalingFactors
from pruning.selection import KeepPlan
from pruning.structure_removal.structures import Structure, remove_structures
from search.models import lenet3, resnet20, vgg16

GRANULARITIES: tuple[Granularity, ...] = ("filter", "layer", "branch", "block")
"""Everything that can be gated at once."""

COMBINATIONS: list[tuple[Granularity, ...]] = [
    *((granularity,) for granularity in GRANULARITIES),
    ("filter", "layer"),
    ("filter", "full-layer"),
    GRANULARITIES,
]


IN_PAPER = Gating("clipped", "convolution")
"""Gates as the paper has them (§5.1)."""


@functools.cache
def _made(granularities: tuple[Granularity, ...], seed: int, form: str, at: str) -> ScalingFactors:
    return ScalingFactors(residual(), images(), granularities, seed=seed, gating=Gating(form, at))


def factors_of(
    granularities: Collection[Granularity], *, seed: int = 0, gating: Gating | None = None
) -> ScalingFactors:
    """The gated residual network, found and traced once for all tests; a copy for each."""
    gating = gating or Gating()
    return copy.deepcopy(_made(tuple(granularities), seed, gating.form, gating.at))


def vector(factors: ScalingFactors) -> Tensor:
    """All gates, in the order of `factors.gates`."""
    gates = [v.detach().reshape(-1) for g in factors.gates.values() for v in g.values()]
    return torch.cat(gates).clone()


def median(factors: ScalingFactors) -> float:
    return float(vector(factors).median())


def train(factors: ScalingFactors, steps: int = 3) -> list[float]:
    """A few steps of SGD on random labels with every gate penalised; the losses."""
    inputs, labels = images(8), torch.arange(8) % 4
    optimizer = torch.optim.SGD(factors.train().parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        strengths = dict.fromkeys(factors.gates, 0.5)
        loss = F.cross_entropy(factors(inputs), labels) + factors.penalty(strengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors.parameters(), 1.0)
        optimizer.step()
        factors.clip()
        losses.append(loss.item())
    factors.eval()
    return losses


def assert_comes_out_plain(factors: ScalingFactors, decision: Decision, inputs: Tensor) -> None:
    """Equal to the gated network, priced right, rebuilt by name, and without gates."""
    plain, gated = factors.plain(decision), factors.decided(decision)
    assert difference(plain(inputs), gated(inputs)) < 1e-10
    assert factors.cost(decision) == measure_cost(plain, inputs[:1])
    rebuilt = remove_structures(factors.gated.ungated(), inputs[:1], decision.removed)
    assert list(plain.state_dict()) == list(rebuilt.state_dict())
    originals = dict(factors.gated.ungated().named_parameters())
    added = {name for name, _ in plain.named_parameters() if name not in originals}
    assert all(name.endswith(".project.weight") for name in added)
    assert not any(module._forward_hooks for module in plain.modules())
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not any(type(module).__module__.startswith("pruning") for module in plain.modules())


@pytest.mark.parametrize("gating", [Gating(), IN_PAPER], ids=["sigmoid", "clipped"])
@pytest.mark.parametrize("granularities", COMBINATIONS, ids="+".join)
def test_every_combination_trains_decides_and_comes_out_plain(
    granularities: tuple[Granularity, ...], gating: Gating
) -> None:
    factors = factors_of(granularities, seed=1, gating=gating)
    before = vector(factors)
    assert all(math.isfinite(loss) for loss in train(factors))
    assert list(factors.gates) == list(granularities)
    after = vector(factors)
    assert ((before != after) | (gating.form == "clipped")).all()
    assert after.mean() < before.mean()
    decision = factors.decide(median(factors))
    assert decision.removed or decision.keep.keep
    assert_comes_out_plain(factors, decision, images(3))
    smaller, whole = factors.cost(decision), factors.cost(factors.decide(0.0))
    assert smaller.flops < whole.flops
    assert whole == trace(residual(), images()).cost()


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_gates_and_any_threshold_come_out_plain(data: st.DataObject) -> None:
    factors = ScalingFactors(
        residual(), images(), GRANULARITIES, seed=data.draw(st.integers(0, 99))
    )
    thresholds = {g: data.draw(st.floats(0, 1)) for g in GRANULARITIES}
    assert_comes_out_plain(factors.eval(), factors.decide(thresholds), images(2))


def test_googlenet_loses_blocks() -> None:
    model = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)
    factors = ScalingFactors(randomised(model).double(), images(1, 64), ["block"]).eval()
    decision = factors.decide(median(factors))
    assert len(factors.gates["block"]) == 9
    assert len(decision.removed) == 4
    assert_comes_out_plain(factors, decision, images(2, 64))


def test_resnet20_loses_branches() -> None:
    factors = ScalingFactors(randomised(resnet20()).double(), images(1, 32), ["branch"]).eval()
    decision = factors.decide(median(factors))
    assert len(decision.removed) == 4
    assert_comes_out_plain(factors, decision, images(2, 32))


def test_vgg16_loses_layers() -> None:
    model = randomised(vgg16()).double()
    factors = ScalingFactors(model, images(1, 32), ["filter", "layer"]).eval()
    assert len(factors.gates["layer"]) == 12
    decision = factors.decide({"layer": 0.6, "filter": 0.5})
    assert 0 < len(decision.removed) < 12
    assert_comes_out_plain(factors, decision, images(2, 32))


def chained() -> nn.Module:
    return randomised(
        chain(stem=conv(3, 4), same=conv(4, 4), fewer=conv(4, 5, stride=2), head=head(5))
    ).double()


def test_a_layer_is_gated_beside_its_shortcut() -> None:
    """Equation 4, with pooling and a 1×1 convolution where shapes differ."""
    model = chained()
    factors = ScalingFactors(model, images(), ["layer"])
    same, fewer = factors.gates["layer"].values()
    project = factors.gated.shortcut(Structure("layer", "fewer")).project
    x = model.stem(images(2))
    x = same * model.same(x) + x
    pooled = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    x = fewer * model.fewer(x) + project(pooled)
    torch.testing.assert_close(factors(images(2)), model.head(x))


def test_a_filter_is_gated_where_weights_read_it_and_shortcuts_too() -> None:
    model = chained()
    factors = ScalingFactors(model, images(), ["filter", "layer"])
    gates = {name: values[:, None, None] for name, values in factors.gates["filter"].items()}
    same, fewer = factors.gates["layer"].values()
    project = factors.gated.shortcut(Structure("layer", "fewer")).project
    x = model.stem(images(2))
    x = same * model.same(x * gates["stem"]) + x
    pooled = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    y = fewer * model.fewer(x * gates["same"]) + project(pooled * gates["same"])
    torch.testing.assert_close(factors(images(2)), model.head(y * gates["fewer"]))


def test_a_branch_and_a_block_are_gated_in_their_places() -> None:
    """Equations 8 and 12."""
    model = residual().eval()
    factors = ScalingFactors(model, images(), ["branch", "block"]).eval()
    gates = {kind: iter(factors.gates[kind].values()) for kind in ("branch", "block")}
    x = model.relu2(model.conv(model.relu1(model.norm(model.stem(images(2))))))
    for name in ("block1", "block2", "block3"):
        block = getattr(model, name)
        branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(x)))))
        whole = F.relu(next(gates["branch"]) * branch + block.short(x))
        added = factors.gated.shortcut(Structure("block", name))
        x = next(gates["block"]) * whole + added(x)
    expected = model.head(model.wide_norm(model.wide(x)))
    torch.testing.assert_close(factors(images(2)), expected)


def test_modes_differ_as_in_the_network() -> None:
    """The rewritten code of a branch must not freeze the mode."""
    model = residual()
    model.block1.conv2 = chain(conv=conv(8, 8), drop=nn.Dropout(0.5)).double()
    factors = ScalingFactors(model.eval(), images(), ["branch"])
    assert torch.equal(factors.eval()(images()), factors(images()))
    assert not torch.equal(factors.train()(images(4)), factors(images(4)))


def test_names_are_those_of_the_network_and_its_trace() -> None:
    model = residual()
    factors = ScalingFactors(model, images(), GRANULARITIES)
    graph = trace(model, images())
    assert set(factors.gates["filter"]) == {group.name for group in graph.prunable}
    assert set(model.state_dict()) <= set(factors.gated.model.state_dict())
    assert set(factors.gated.ungated().state_dict()) == set(model.state_dict())
    streams = {group.name for group in graph.prunable if group.residual}
    without = ScalingFactors(model, images(), ["filter"], residual=False)
    assert streams
    assert set(without.gates["filter"]) == set(factors.gates["filter"]) - streams


def test_the_seed_decides_everything() -> None:
    first, again, other = (
        ScalingFactors(residual(), images(), GRANULARITIES, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first(images()), again(images()))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first(images()), other(images()))
    assert vector(first).min() >= 0.05 - 1e-9
    assert vector(first).max() <= 0.95 + 1e-9
    assert vector(first).std() > 0.2  # uniform: 0.29


def test_neither_the_network_nor_the_gates_are_touched() -> None:
    model = residual()
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    factors = ScalingFactors(model, images(), GRANULARITIES)
    train(factors)
    before, output = vector(factors), factors(images())
    decision = factors.decide(0.5)
    for made in (factors.plain(decision), factors.decided(decision)):
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
    assert torch.equal(factors(images()), output)
    assert torch.equal(vector(factors), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert not any(m._forward_hooks or "forward" in vars(m) for m in model.modules())


def test_what_is_kept_whole_is_the_network_itself() -> None:
    model = residual().eval()
    factors = ScalingFactors(model, images(), ["layer", "branch", "block"]).eval()
    plain = factors.plain(factors.decide(0.0))
    assert torch.equal(plain(images()), model(images()))
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]


def test_the_penalty_is_the_weighted_sum_of_means() -> None:
    factors = factors_of(GRANULARITIES)
    layers = torch.stack(list(factors.gates["layer"].values()))
    filters = list(factors.gates["filter"].values())
    expected = 2 * layers.mean() + 3 * sum(values.mean() for values in filters)
    torch.testing.assert_close(factors.penalty({"layer": 2, "filter": 3}), expected)
    assert factors.penalty({}) == 0
    mixed = factors.penalty({"layer": 2, "block": 1}, {"layer": torch.max, "block": torch.sum})
    blocks = torch.stack(list(factors.gates["block"].values()))
    torch.testing.assert_close(mixed, 2 * layers.max() / len(layers) + blocks.mean())


def test_the_penalty_reaches_only_what_it_names() -> None:
    factors = factors_of(GRANULARITIES)
    factors.penalty({"branch": 1.0}).backward()
    moved = {name for name, p in factors.named_parameters() if p.grad is not None}
    assert moved == {f"gated.model.block{i}.branch_gate.learned" for i in (1, 2, 3)}


def test_a_threshold_decides_what_is_below_it() -> None:
    factors = factors_of(GRANULARITIES)
    decision = factors.decide({"layer": 0.5, "filter": 0.5}, min_channels=1)
    assert [structure.name for structure in decision.removed] == [
        name for name, value in factors.gates["layer"].items() if value < 0.5
    ]
    for name, values in factors.gates["filter"].items():
        above = (values >= 0.5).nonzero().flatten().tolist()
        assert list(decision.keep.keep[name]) == (above or [int(values.argmax())])
    value = factors.gates["layer"]["conv"].item()
    assert Structure("layer", "conv") not in factors.decide(value).removed


def widths_after(removed: str, keep: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Widths of the chain without a layer, with these filter gates open."""
    factors = ScalingFactors(chained(), images(), ["filter", "layer"])
    decision = Decision((Structure("layer", removed),), KeepPlan(keep))
    assert_comes_out_plain(factors, decision, images(2))
    return dict(trace(factors.plain(decision), images()).widths)


def test_an_added_shortcut_reads_no_channel_whose_gate_is_closed() -> None:
    assert widths_after("fewer", {"same": (0, 2)})["same"] == 2


def test_channels_that_an_identity_ties_go_once_every_gate_is_closed() -> None:
    """Without the layer nobody reads the channels of the stem through the stem's own gates."""
    assert widths_after("same", {"stem": (0,), "same": (1, 2, 3)})["stem"] == 3


def test_gates_on_the_outputs_of_a_layer_that_goes_decide_nothing() -> None:
    """Settled without it, the network reads the stem by the stem's own gates, and so it stays."""
    model = randomised(
        chain(
            stem=conv(3, 4),
            relu0=nn.ReLU(),
            same=conv(4, 4),
            relu=nn.ReLU(),
            last=conv(4, 5),
            head=head(5),
        )
    ).double()
    gating = dataclasses.replace(IN_PAPER, only={"full-layer": ("same",)})
    factors = ScalingFactors(model.eval(), images(), ["filter", "full-layer"], gating=gating)
    keep = KeepPlan({"stem": (0, 1), "same": (1, 2, 3), "last": (0, 1, 2, 3, 4)})
    decision = Decision((Structure("full-layer", "same"),), keep)
    assert_comes_out_plain(factors, decision, images(2))
    settled = factors.settled(decision).eval()
    plain = settled.plain(decision)
    assert plain.stem.out_channels == 2
    torch.testing.assert_close(plain(images(2)), settled(images(2)))


@pytest.mark.parametrize("min_channels", [1, 3, 5])
def test_the_best_channels_of_a_group_stay(min_channels: int) -> None:
    factors = factors_of(["filter"])
    decision = factors.decide(2.0, min_channels=min_channels)
    for name, values in factors.gates["filter"].items():
        assert set(decision.keep.keep[name]) == set(values.topk(min_channels).indices.tolist())
    widths = trace(factors.plain(decision), images()).widths
    assert all(widths[name] >= min_channels for name in decision.keep.keep)


@pytest.mark.parametrize(
    ("granularities", "text"),
    [
        *((("filter",), text) for text in ("params=50%", "flops=30%", "flops=40% params=20%")),
        *((("layer", "block"), text) for text in ("params=50%", "flops=60k")),
        *((GRANULARITIES, text) for text in ("flops=70%", "flops=40% params=20%")),
    ],
    ids=str,
)
def test_a_budget_is_met_and_hardly_less_is_removed(
    granularities: tuple[Granularity, ...], text: str
) -> None:
    factors = factors_of(granularities, seed=2).eval()
    budget = Budget.parse(*text.split())
    limits = budget.absolute(measure_cost(residual(), images()))
    try:
        decision = factors.decide_to(budget)
    except UnreachableBudgetError:
        assert not limits.allows(factors.cost(factors.decide(2.0)))
        return
    assert limits.allows(measure_cost(factors.plain(decision), images()))
    thresholds = sorted(vector(factors).tolist())
    decisions = [factors.decide(threshold) for threshold in thresholds]
    if decision in decisions:
        first = decisions.index(decision)
        assert first == 0 or not limits.allows(factors.cost(decisions[first - 1]))
    else:
        assert decision == factors.decide(2.0)
        assert not limits.allows(factors.cost(decisions[-1]))


def test_a_budget_that_asks_for_nothing_removes_nothing() -> None:
    factors = factors_of(GRANULARITIES)
    assert factors.decide_to(Budget.parse("flops=100%")) == factors.decide(0.0)


def test_a_budget_out_of_reach_names_the_nearest() -> None:
    factors = factors_of(["branch"])
    nearest = factors.cost(factors.decide(2.0)).flops
    with pytest.raises(UnreachableBudgetError, match=f"{nearest:,}"):
        factors.decide_to(Budget.parse("flops=1%"))


def test_a_decision_is_json() -> None:
    decision = factors_of(GRANULARITIES).decide(0.5)
    stored = json.loads(json.dumps(dataclasses.asdict(decision)))
    again = Decision(
        tuple(Structure(**structure) for structure in stored["removed"]),
        KeepPlan({name: tuple(kept) for name, kept in stored["keep"]["keep"].items()}),
    )
    assert again == decision


@pytest.mark.parametrize(
    ("granularities", "error", "message"),
    [
        ([], ConfigError, "granularities are some of filter, layer, full-layer, branch, block"),
        (["layer", "full-layer"], ConfigError, "on the same convolutions: choose one"),
        (["neuron"], ConfigError, "got .*neuron"),
        (["filter", "branch"], CriterionError, "Sequential has no branch to gate"),
        (["block"], CriterionError, "Sequential has no block to gate"),
    ],
)
def test_granularities_that_a_network_lacks(
    granularities: list[Granularity], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ScalingFactors(chained(), images(), granularities)


@pytest.mark.parametrize("granularity", ["filter", "layer"])
def test_a_single_layer_has_nothing_to_gate(granularity: Granularity) -> None:
    with pytest.raises(CriterionError, match=f"no {granularity} to gate"):
        ScalingFactors(nn.Sequential(conv(3, 4)).double(), images(), [granularity])


def test_settings_that_are_refused() -> None:
    factors = factors_of(["layer"])
    with pytest.raises(ConfigError, match="a strength for 'block', but the gates are on layer"):
        factors.penalty({"block": 1.0})
    with pytest.raises(ConfigError, match="λ of layer must be at least 0, got -1"):
        factors.penalty({"layer": -1})
    with pytest.raises(ConfigError, match="a threshold must be a number, got nan"):
        factors.decide(math.nan)
    with pytest.raises(ConfigError, match="min_channels must be at least 1, got 0"):
        factors.decide(0.5, min_channels=0)
    with pytest.raises(PlanError, match="the layer 'stem', which has no gate"):
        factors.plain(Decision((Structure("layer", "stem"),), KeepPlan({})))


def test_channels_of_attention_scores_have_no_filter_gates() -> None:
    """No weight reads queries and keys that a gate could be folded into."""
    model = randomised(chain(embed=nn.Linear(5, 6), attend=Attention(), last=nn.Linear(6, 4)))
    example = torch.randn(1, 3, 5)
    scaled = ScalingFactors(model, example, ["filter"])
    names = set(scaled.gates["filter"])
    assert {"attend.value", "attend.up"} <= names
    assert "attend.query" not in names
    assert "attend.query" in {group.name for group in trace(model, example).prunable}
    decision = scaled.decide(0.5, min_channels=1)
    torch.testing.assert_close(scaled.plain(decision)(example), scaled.decided(decision)(example))


def test_filters_are_gated_on_the_outputs_of_convolutions_before_batch_norm() -> None:
    """§3.1: "multiplied with the output of convolution layer"."""
    model = randomised(
        chain(
            stem=conv(3, 4), norm=nn.BatchNorm2d(4), relu=nn.ReLU(), last=conv(4, 5), head=head(5)
        )
    ).double()
    factors = ScalingFactors(model.eval(), images(), ["filter"], gating=IN_PAPER).eval()
    gates = {name: values[:, None, None] for name, values in factors.gates["filter"].items()}
    x = F.relu(model.norm(model.stem(images(2)) * gates["stem"]))
    torch.testing.assert_close(factors(images(2)), model.head(model.last(x) * gates["last"]))


def test_a_full_layer_takes_batch_norm_and_activation_along() -> None:
    """Equation 4 of a layer as Keras has it, with filter gates inside."""
    model = randomised(
        chain(
            stem=conv(3, 4),
            relu0=nn.ReLU(inplace=True),
            conv=conv(4, 4),
            norm=nn.BatchNorm2d(4),
            relu=nn.ReLU(inplace=True),
            bare=conv(4, 4),
            head=head(4),
        )
    ).double()
    factors = ScalingFactors(model.eval(), images(), ["filter", "full-layer"], gating=IN_PAPER)
    factors.eval()
    (layer,) = factors.gates["full-layer"].values()
    gates = {name: values[:, None, None] for name, values in factors.gates["filter"].items()}
    x = F.relu(model.stem(images(2)) * gates["stem"])
    y = layer * F.relu(model.norm(model.conv(x) * gates["conv"])) + x
    torch.testing.assert_close(factors(images(2)), model.head(model.bare(y) * gates["bare"]))
    gone = Decision((Structure("full-layer", "conv"),), factors.decide(0.0).keep)
    plain = factors.plain(gone)
    assert_comes_out_plain(factors, gone, images(2))
    assert all(type(getattr(plain, name)) is nn.Identity for name in ("conv", "norm", "relu"))


def test_clipped_gates_reach_zero_by_l1_and_come_back_by_the_loss() -> None:
    factors = factors_of(["filter"], gating=IN_PAPER)
    optimizer = torch.optim.SGD(factors.learned, lr=0.1)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        factors.clip()

    for _ in range(12):
        step(sum(values.abs().sum() for values in factors.gates["filter"].values()))
    assert (vector(factors) == 0).all()
    step(factors.penalty({"filter": 1.0}))
    assert (vector(factors) == 0).all()
    step(sum((1 - values).square().sum() for values in factors.gates["filter"].values()))
    assert (vector(factors) > 0).all()


@pytest.mark.parametrize("gating", [Gating(), IN_PAPER], ids=["sigmoid", "clipped"])
def test_settled_gates_are_zero_or_one_beside_standing_shortcuts(gating: Gating) -> None:
    """§5.4: decided, fine-tuned with the shortcuts, and only then without them."""
    factors = ScalingFactors(chained(), images(), ["filter", "layer"], gating=gating).eval()
    model = factors.gated.model
    keep = KeepPlan({"stem": (0, 1), "same": (0, 2, 3), "fewer": (0, 1, 2, 3, 4)})
    decision = Decision((Structure("layer", "same"),), keep)
    settled = factors.settled(decision)
    open_ = {
        name: torch.tensor([float(c in kept) for c in range(width)])[:, None, None].double()
        for (name, kept), width in zip(keep.keep.items(), (4, 4, 5), strict=True)
    }
    plain = factors.gated.ungated()
    project = factors.gated.shortcut(Structure("layer", "fewer")).project
    x = plain.stem(images(2))
    at_output = gating.at == "convolution"
    x = x * open_["stem"] if at_output else x
    y = 0 * x + x  # the layer goes, its shortcut stands
    y = y if at_output else y * open_["same"]
    pooled = F.avg_pool2d(y, 3, 2, 1, count_include_pad=False)
    z = plain.fewer(y) + project(pooled)
    torch.testing.assert_close(settled(images(2)), plain.head(z))
    before = [p.clone() for p in settled.learned]
    train(settled)
    assert all(torch.equal(a, b) for a, b in zip(before, settled.learned, strict=True))
    final = settled.plain(decision)
    assert difference(final(images(3)), settled.decided(decision)(images(3))) < 1e-10
    assert not any(hasattr(module, "gating") for module in final.modules())
    assert model is factors.gated.model


def test_only_what_patterns_name_is_gated() -> None:
    """§5.5: the first layer of each block and its branch."""
    gating = Gating(only={"layer": ("*.conv1",), "filter": ("block1", "wide")})
    factors = ScalingFactors(residual(), images(), ["filter", "layer", "branch"], gating=gating)
    assert list(factors.gates["layer"]) == [f"block{i}.conv1" for i in (1, 2, 3)]
    assert list(factors.gates["branch"]) == [f"block{i}" for i in (1, 2, 3)]
    assert {"block1.conv1", "wide"} <= set(factors.gates["filter"])
    assert "block3.conv1" not in factors.gates["filter"]
    nothing = Gating(only={"layer": ("nowhere",)})
    with pytest.raises(CriterionError, match="no layer to gate that nowhere fits"):
        ScalingFactors(residual(), images(), ["layer"], gating=nothing)
    with pytest.raises(CriterionError, match="no filter to gate: none that nowhere fits"):
        ScalingFactors(
            residual(), images(), ["filter"], gating=Gating(only={"filter": ("nowhere",)})
        )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Gating("relu"), "form must be one of sigmoid, clipped, got 'relu'"),
        (lambda: Gating(at="batchnorm"), "at must be one of consumer, convolution"),
        (lambda: Gating(only={"neuron": ("x",)}), "patterns are for some of .* got 'neuron'"),
    ],
)
def test_gates_that_there_are_none_of(made: Callable[[], Gating], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made()


def test_lenet_loses_filters_and_layers_together() -> None:
    """Both granularities of the paper (eq. 6) on a network of the zoo."""
    model, example = randomised(lenet3()).double(), images(1, 32)
    factors = ScalingFactors(model, example, ["filter", "layer"], gating=IN_PAPER).eval()
    assert list(factors.gates["layer"]) == ["features.3"]
    assert {name: len(v) for name, v in factors.gates["filter"].items()} == {
        "features.0": 16,
        "features.3": 32,
        "features.7": 120,
        "features.9": 84,
    }
    both = Decision((Structure("layer", "features.3"),), factors.decide(0.5).keep)
    smaller = factors.plain(both)
    assert_comes_out_plain(factors, both, images(2, 32))
    widths = trace(smaller, example).widths
    kept = both.keep.keep
    assert widths["features.0"] == len(kept["features.0"]) < 16
    assert smaller.get_submodule("features.3.project").weight.shape[1] == len(kept["features.0"])
    assert widths["features.9"] == len(kept["features.9"]) < 84
    alone = [
        factors.cost(Decision((), both.keep)),
        factors.cost(Decision(both.removed, factors.decide(0.0).keep)),
    ]
    assert all(factors.cost(both).flops < cost.flops for cost in alone)
