"""The smaller network computes what the full one does with the removed channels at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME, ONE_SAMPLE, PRUNABLE, Architecture
from gating import channels_of, difference, gated, plans, random_plan, removed_units, tensors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import call, chain, conv
from torch import Tensor, nn

from pruning import ChannelGraph, KeepPlan, remove_channels, trace
from pruning.errors import PlanError
from pruning.layer_sizes import update_sizes
from pruning.networks.copies import copied, doubled

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
every_prunable = pytest.mark.parametrize("architecture", PRUNABLE, ids=str)


@every_architecture
def test_outputs_depend_on_the_input(architecture: Architecture) -> None:
    """Otherwise the comparisons below would compare constants."""
    model = architecture.network(dtype=torch.float64)
    first, second = (call(model, architecture.example(seed, torch.float64)) for seed in (1, 2))
    assert difference(first, second) > 1e-3


@every_prunable
@settings(max_examples=3)
@given(data=st.data())
def test_equals_the_gated_network(architecture: Architecture, data: st.DataObject) -> None:
    graph = architecture.graph
    plan = data.draw(plans(graph))
    for dtype, tolerance in TOLERANCE.items():
        model, inputs = architecture.network(1, dtype), architecture.example(1, dtype)
        smaller = remove_channels(model, graph, plan)
        expected = call(gated(model, graph, plan), inputs)
        assert difference(call(smaller, inputs), expected) < tolerance


@pytest.mark.parametrize(
    "architecture", [one for one in PRUNABLE if one.name not in ONE_SAMPLE], ids=str
)
@settings(max_examples=3)
@given(data=st.data())
def test_trains_on_a_batch_as_the_gated_network_does(
    architecture: Architecture, data: st.DataObject
) -> None:
    """What code does only in training, and only with several samples, fits the smaller network."""
    graph = architecture.graph
    plan = data.draw(plans(graph))
    model = architecture.network(3, torch.float64).train()
    inputs = doubled(architecture.example(3, torch.float64))
    smaller = remove_channels(model, graph, plan)
    expected = call(gated(model, graph, plan), inputs)
    assert difference(call(smaller, inputs), expected) < 1e-9


@every_prunable
def test_equals_the_gated_network_in_train_mode(architecture: Architecture) -> None:
    graph, plan = architecture.graph, random_plan(architecture.graph, seed=2)
    model = architecture.network(2, torch.float64).train()
    inputs = architecture.example(2, torch.float64)
    smaller = remove_channels(model, graph, plan)
    assert difference(call(smaller, inputs), call(gated(model, graph, plan), inputs)) < 1e-9


Positions = Callable[[int], Sequence[int]]


def at(first: int = 0, repeat: int = 1) -> Positions:
    """Channel c arrives at `repeat` positions from first + c·repeat on."""
    return lambda channel: range(first + channel * repeat, first + (channel + 1) * repeat)


CONSUMERS: dict[str, dict[str, list[tuple[str, Positions]]]] = {
    "chain": {"conv1": [("conv2", at())], "conv2": [("head.fc", at())]},
    "identity shortcut": {"stem": [("a", at()), ("head.fc", at())], "a": [("b", at())]},
    "projected shortcut": {
        "stem": [("a", at()), ("short", at())],
        "a": [("b", at())],
        "short": [("head.fc", at())],
    },
    "shortcut padded behind": {
        "stem": [("conv1", at()), ("head.fc", at())],
        "conv1": [("conv2", at())],
        "conv2": [("head.fc", at(4))],
    },
    "dense block": {
        "stem": [("grow1", at()), ("grow2", at()), ("head.fc", at())],
        "grow1": [("grow2", at(5)), ("head.fc", at(5))],
        "grow2": [("head.fc", at(9))],
    },
    "u-net": {
        "enter": [("down", at()), ("leave", at())],
        "down": [("up", at())],
        "up": [("leave", at(5))],
    },
    "inception": {
        "stem": [("narrow", at()), ("reduce", at()), ("pool", at())],
        "reduce": [("wide", at())],
        "narrow": [("head.fc", at())],
        "wide": [("head.fc", at(4))],
        "pool": [("head.fc", at(9))],
    },
    "channel shuffle": {
        "stem": [("first", at())],
        "first": [("head.fc", lambda channel: [channel % 6 * 2 + channel // 6])],
    },
    "squeeze-excitation": {
        "stem": [("block.expand", at()), ("head.fc", at())],
        "block.expand": [("block.squeeze", at()), ("block.project", at())],
        "block.squeeze": [("block.excite", at())],
    },
    "depthwise multiplier": {"stem": [("head.fc", at(0, 2))]},
    "few wide groups": {"stem": [("grouped", at())], "grouped": [("head.fc", at())]},
    "transposed, many narrow groups": {"first": [("last", at(0, 2))]},
    "module used twice": {"stem": [("shared", at()), ("head.fc", at())]},
    "linear after flatten": {"first": [("fc1", at(0, 4))], "fc1": [("fc2", at())]},
    "pixel shuffle": {"first": [("last", lambda channel: [channel // 4])]},
}
"""Per network and group: the layers that consume its channels, and where each one arrives.

Written by hand, so that it owes nothing to the trace.
"""


def _zeroing(positions: Sequence[int]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].index_fill(1, torch.tensor(positions, dtype=torch.long), 0)

    return hook


@pytest.mark.parametrize("name", CONSUMERS)
def test_equals_activations_gated_by_hand(name: str) -> None:
    architecture = BY_NAME[name]
    assert set(CONSUMERS[name]) == set(architecture.prunable)
    inputs = architecture.example(3, torch.float64)
    for seed in range(4):
        model = architecture.network(seed, torch.float64)
        plan = random_plan(architecture.graph, seed)
        smaller = remove_channels(model, architecture.graph, plan)
        for group, consumers in CONSUMERS[name].items():
            gone = set(range(architecture.prunable[group][0])) - set(plan.keep[group])
            for layer, positions in consumers:
                zeros = [position for channel in gone for position in positions(channel)]
                model.get_submodule(layer).register_forward_pre_hook(_zeroing(zeros))
        assert difference(call(smaller, inputs), call(model, inputs)) < 1e-9


@every_prunable
def test_gradients_reach_every_parameter(architecture: Architecture) -> None:
    model = architecture.network(4).train()
    smaller = remove_channels(model, architecture.graph, random_plan(architecture.graph, seed=4))
    outputs = tensors_of(call(smaller, architecture.example(4)))
    sum(output.square().sum() for output in outputs).backward()
    for name, parameter in smaller.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(parameter.grad is None for parameter in model.parameters())


@every_architecture
def test_the_given_network_is_untouched(architecture: Architecture) -> None:
    model = architecture.network(5).train()
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    smaller = remove_channels(model, architecture.graph, random_plan(architecture.graph, seed=5))
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert all(module.training for module in model.modules())
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    ours = {tensor.data_ptr() for tensor in model.state_dict().values() if tensor.numel()}
    assert not any(tensor.data_ptr() in ours for tensor in smaller.state_dict().values())


@every_architecture
def test_keeping_everything_changes_nothing(architecture: Architecture) -> None:
    model, inputs = architecture.network(6), architecture.example(6)
    for plan in (KeepPlan({}), KeepPlan({n: tuple(range(w)) for n, w in whole(architecture)})):
        same = remove_channels(model, architecture.graph, plan)
        assert difference(call(same, inputs), call(model, inputs)) == 0
        assert repr(same) == repr(model)


def whole(architecture: Architecture) -> list[tuple[str, int]]:
    return list(architecture.graph.widths.items())


@every_prunable
def test_widths_and_attributes_follow_the_plan(architecture: Architecture) -> None:
    """A trace of the smaller network finds the same groups, as wide and as costly as planned."""
    graph, plan = architecture.graph, random_plan(architecture.graph, seed=7)
    smaller = remove_channels(architecture.network(7), graph, plan)
    again = trace(smaller, architecture.example())
    assert again.widths == {**graph.widths, **plan.widths}
    planned, found = graph.cost(plan.widths), again.cost()
    assert planned.peak_activation_bytes == found.peak_activation_bytes
    for name, module in smaller.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            ins, outs = module.in_channels, module.out_channels // module.groups
            shape = (
                (ins, outs) if module.transposed else (module.out_channels, ins // module.groups)
            )
            assert module.weight.shape[:2] == shape, name
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), name
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            for vector in (module.weight, module.running_mean):
                assert vector is None or vector.shape == (module.num_features,), name
        elif isinstance(module, nn.GroupNorm):
            assert module.num_groups == module.num_channels // 3, name
        elif isinstance(module, nn.PReLU):
            assert module.weight.shape == (module.num_parameters,), name


@every_prunable
def test_removing_twice_is_removing_once(architecture: Architecture) -> None:
    """The second time down to the least, from which no trace could tell what goes together."""
    graph, model = architecture.graph, architecture.network(8)
    first = random_plan(graph, seed=8, keep_fraction=0.8)
    once, left = remove_channels(model, graph, first), graph.narrowed(first.units_kept(graph))
    assert left.widths == {**graph.widths, **first.widths}
    least = {g.name: channels_of(g, range(min(g.min_units, g.num_units))) for g in left.prunable}
    twice = remove_channels(once, left, KeepPlan(least))
    both = KeepPlan(least).among(first)
    direct = remove_channels(model, graph, both)
    assert direct.state_dict().keys() == twice.state_dict().keys()
    for key, value in direct.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key]), key
    smallest = left.narrowed(KeepPlan(least).units_kept(left))
    assert smallest.widths == {**graph.widths, **both.widths}
    assert smallest.cost() == left.cost(both.widths) == graph.cost(both.widths)
    assert [group.num_units for group in smallest.prunable] == [
        min(group.min_units, group.num_units) for group in left.prunable
    ]


@every_prunable
def test_gates_of_what_is_left_act_where_its_channels_are(architecture: Architecture) -> None:
    graph, model = architecture.graph, architecture.network(3, torch.float64)
    first = random_plan(graph, seed=3, keep_fraction=0.8)
    once, left = remove_channels(model, graph, first), graph.narrowed(first.units_kept(graph))
    second, inputs = random_plan(left, seed=4), architecture.example(3, torch.float64)
    expected = call(remove_channels(once, left, second), inputs)
    assert difference(call(gated(once, left, second), inputs), expected) < 1e-9


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize(("outputs", "groups"), [(16, 4), (8, 8), (24, 8), (8, 2), (16, 2)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_grouped_convolutions_go_on_losing_what_they_have_lost(
    outputs: int, groups: int, units: int, is_transposed: bool
) -> None:
    """Whole groups or channels of each: fewer of either would decide otherwise."""
    layer = nn.ConvTranspose2d if is_transposed else nn.Conv2d
    model = chain(
        first=conv(3, 8), grouped=layer(8, outputs, 1, groups=groups), last=conv(outputs, 4)
    )
    example = torch.zeros(1, 3, 4, 4)
    graph = trace(model, example)
    some = {g.name: channels_of(g, range(min(units, g.num_units))) for g in graph.prunable}
    smaller = remove_channels(model, graph, KeepPlan(some))
    again = trace(smaller, example)
    assert again.widths == {**graph.widths, **KeepPlan(some).widths}
    assert [g.unit for g in again.groups] == [g.unit for g in graph.groups]
    one = {g.name: channels_of(g, {0}) for g in again.prunable}
    smallest = remove_channels(smaller, again, KeepPlan(one))
    assert call(smallest, example).shape == (1, 4, 4, 4)


@every_prunable
def test_state_dicts_fit_networks_of_equal_shape(architecture: Architecture) -> None:
    graph, plan = architecture.graph, random_plan(architecture.graph, seed=10)
    trained = remove_channels(architecture.network(10), graph, plan)
    other = remove_channels(architecture.network(11), graph, plan)
    other.load_state_dict(trained.state_dict(), strict=True)
    inputs = architecture.example(10)
    assert difference(call(other, inputs), call(trained, inputs)) == 0


@pytest.fixture
def prunable() -> tuple[nn.Module, ChannelGraph, KeepPlan]:
    architecture = BY_NAME["chain"]
    return architecture.network(), architecture.graph, KeepPlan({"conv1": (0, 2, 5)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_is_kept(prunable: Any, dtype: torch.dtype) -> None:
    model, graph, plan = prunable
    smaller = remove_channels(model.to(dtype), graph, plan)
    assert {p.dtype for p in smaller.parameters()} == {dtype}
    assert smaller.bn1.num_batches_tracked.dtype == torch.int64


def test_modes_and_frozen_parameters_are_kept(prunable: Any) -> None:
    model, graph, plan = prunable
    model.train()
    model.bn1.eval()
    model.conv2.weight.requires_grad_(False)
    smaller = remove_channels(model, graph, plan)
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    frozen = [name for name, p in smaller.named_parameters() if not p.requires_grad]
    assert frozen == ["conv2.weight"]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_memory_format_is_kept(kernel: int) -> None:
    model = chain(first=conv(3, 6, kernel), grouped=conv(6, 6, kernel, groups=2), last=conv(6, 4))
    model = model.to(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    graph = trace(model, example)
    for plan in (KeepPlan({}), random_plan(graph, seed=1)):
        smaller = remove_channels(model, graph, plan)
        for name, weight in smaller.named_parameters():
            if weight.dim() == 4:
                again = weight.detach().contiguous().to(memory_format=torch.channels_last)
                assert weight.stride() == again.stride(), name
        assert smaller(example).is_contiguous(memory_format=torch.channels_last)


@every_prunable
def test_networks_without_values_get_the_same_sizes(architecture: Architecture) -> None:
    model = architecture.network(dtype=torch.float64)
    plan = random_plan(architecture.graph, seed=2)

    def tensors(network: nn.Module) -> list[Any]:
        state = remove_channels(network, architecture.graph, plan).state_dict()
        return [(name, t.shape, t.stride(), t.dtype) for name, t in state.items()]

    assert tensors(copied(model, torch.device("meta"))) == tensors(model)


def test_attributes_of_parameters_survive(prunable: Any) -> None:
    model, graph, plan = prunable
    model.conv1.weight.no_weight_decay = True
    assert remove_channels(model, graph, plan).conv1.weight.no_weight_decay


SIZES: dict[str, tuple[Callable[[int, int], nn.Module], tuple[str, ...]]] = {
    "linear": (nn.Linear, ("in_features", "out_features")),
    "bilinear": (
        lambda a, b: nn.Bilinear(a, b, a),
        ("in1_features", "in2_features", "out_features"),
    ),
    "embedding": (nn.Embedding, ("num_embeddings", "embedding_dim")),
    "bag": (nn.EmbeddingBag, ("num_embeddings", "embedding_dim")),
    "layer norm": (lambda a, b: nn.LayerNorm((a, b)), ("normalized_shape",)),
    "rms norm": (lambda a, b: nn.RMSNorm((a, b)), ("normalized_shape",)),
    "batch norm": (lambda a, _: nn.BatchNorm3d(a), ("num_features",)),
    "lstm": (nn.LSTM, ("input_size", "hidden_size")),
    "projected": (
        lambda a, b: nn.LSTM(a, b + 3, proj_size=b),
        ("input_size", "hidden_size", "proj_size"),
    ),
    "cell": (nn.LSTMCell, ("input_size", "hidden_size")),
    "self-attention": (
        lambda a, _: nn.MultiheadAttention(2 * a, 2),
        ("embed_dim", "kdim", "vdim", "head_dim"),
    ),
    "attention": (
        lambda a, b: nn.MultiheadAttention(2 * a, 2, kdim=b, vdim=b + 1),
        ("embed_dim", "kdim", "vdim", "head_dim"),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_size_of_a_stock_layer_follows_its_parameters(name: str) -> None:
    make, attributes = SIZES[name]
    layer, smaller = make(6, 8), make(4, 5)
    for old, new in zip(layer.modules(), smaller.modules(), strict=True):
        old._parameters, old._buffers = new._parameters, new._buffers
    update_sizes(layer)
    for attribute in attributes:
        assert getattr(layer, attribute) == getattr(smaller, attribute), attribute


def test_hooks_and_buffers_survive(prunable: Any) -> None:
    model, graph, plan = prunable
    widths: list[int] = []
    model.conv1.register_forward_hook(lambda _m, _i, output: widths.append(output.shape[1]))
    model.register_buffer("mean", torch.tensor([1.0, 2.0, 3.0]))
    model.register_buffer("seen", torch.tensor(7), persistent=False)
    smaller = remove_channels(model, graph, plan)
    smaller(torch.zeros(1, 3, 8, 8))
    assert widths == [3]
    assert torch.equal(smaller.mean, model.mean)
    assert smaller.seen.item() == 7
    assert "seen" not in smaller.state_dict()
    assert smaller.mean.data_ptr() != model.mean.data_ptr()


def test_what_is_tied_stays_tied() -> None:
    architecture = BY_NAME["tied parameter"]
    plan = random_plan(architecture.graph, seed=0)
    smaller = remove_channels(architecture.network(), architecture.graph, plan)
    assert smaller.first.weight is smaller.second.weight
    assert smaller.first.weight.shape[:2] == (len(plan.keep["stem"]),) * 2


def test_kept_channels_keep_their_order_and_values(prunable: Any) -> None:
    model, graph, plan = prunable
    smaller = remove_channels(model, graph, plan)
    assert torch.equal(smaller.conv1.weight, model.conv1.weight[[0, 2, 5]])
    assert torch.equal(smaller.bn1.running_var, model.bn1.running_var[[0, 2, 5]])
    assert torch.equal(smaller.conv2.weight, model.conv2.weight[:, [0, 2, 5]])


def test_a_network_of_other_widths_is_refused(prunable: Any) -> None:
    model, graph, plan = prunable
    smaller = remove_channels(model, graph, plan)
    with pytest.raises(PlanError, match=r"conv1.weight has 3 positions along axis 0, the graph 6"):
        remove_channels(smaller, graph, plan)


def test_a_plan_that_splits_a_unit_is_refused() -> None:
    architecture = BY_NAME["group normalisation"]
    with pytest.raises(PlanError, match="in units of 3: the plan splits a unit"):
        remove_channels(architecture.network(), architecture.graph, KeepPlan({"first": (0, 1, 3)}))


def test_removed_units_are_what_the_plan_leaves_out() -> None:
    """The reference itself, at a group of units of two that lie apart."""
    graph = BY_NAME["chunk"].graph
    assert removed_units(graph, KeepPlan({"first": (0, 2, 5, 7)})) == [{1, 3, 4}, set()]
