"""The same topology at other widths, with weights that come from a seed alone."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME, PRUNABLE, Architecture
from gating import difference, random_plan, tensors_of
from networks import Branches, call, chain, conv, small
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from copycat import Builder, WidthProfile, build, recorded
from copycat.build import shaped
from pruning import remove_channels, trace
from pruning.errors import PlanError

IMAGE = torch.zeros(1, 3, 8, 8)
every_prunable = pytest.mark.parametrize("architecture", PRUNABLE, ids=str)


def changed_widths(architecture: Architecture) -> dict[str, int]:
    """One group a unit wider, the next at one unit, and so on."""
    return {
        group.name: group.width + group.unit if number % 2 == 0 else group.unit
        for number, group in enumerate(architecture.graph.prunable)
    }


def equal(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_shapes_and_attributes_of_wider_and_narrower_layers() -> None:
    built = build(small(), WidthProfile({"conv1": 9, "conv2": 2}), IMAGE)
    shapes = {name: tuple(p.shape) for name, p in built.named_parameters() if p.dim() > 1}
    assert shapes == {
        "conv1.weight": (9, 3, 3, 3),
        "conv2.weight": (2, 9, 3, 3),
        "head.fc.weight": (4, 2),
    }
    assert (built.conv2.in_channels, built.conv2.out_channels) == (9, 2)
    assert (built.bn1.num_features, built.bn2.num_features) == (9, 2)
    assert (built.head.fc.in_features, built.head.fc.out_features) == (2, 4)
    assert built.bn1.running_mean.shape == (9,)


def test_groups_of_convolutions_grow_as_their_channels_do() -> None:
    many = BY_NAME["many narrow groups"]
    built = build(many.make(), WidthProfile({"stem": 16}), many.example())
    assert (built.grouped.groups, built.grouped.in_channels, built.grouped.out_channels) == (
        8,
        16,
        8,
    )
    few = BY_NAME["few wide groups"]
    built = build(few.make(), WidthProfile({"grouped": 20}), few.example())
    assert (built.grouped.groups, built.grouped.in_channels, built.grouped.out_channels) == (
        2,
        8,
        20,
    )


@every_prunable
def test_built_networks_are_as_wide_as_the_profile_run_and_learn(
    architecture: Architecture,
) -> None:
    widths = changed_widths(architecture)
    built = build(architecture.make(), WidthProfile(widths), architecture.example())
    expected = architecture.graph.cost(widths).params
    assert sum(parameter.numel() for parameter in built.parameters()) == expected
    outputs = tensors_of(call(built, architecture.example()))
    sum(output.square().sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


@every_prunable
def test_trained_weights_fit_a_network_that_is_built(architecture: Architecture) -> None:
    """A pruned network's state loads into the same shape built from the base network."""
    graph, plan = architecture.graph, random_plan(architecture.graph, seed=3)
    pruned = remove_channels(architecture.network(3), graph, plan)
    for shape in (
        build(architecture.make(), WidthProfile(plan.widths), architecture.example()),
        shaped(architecture.make(), WidthProfile(plan.widths), graph),
    ):
        shape.load_state_dict(pruned.state_dict(), strict=True)
        inputs = architecture.example(3)
        assert difference(call(shape.eval(), inputs), call(pruned, inputs)) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_seeds_decide_the_weights(architecture: Architecture) -> None:
    model, profile = architecture.make(), WidthProfile({})
    inputs = architecture.example()
    first = build(model, profile, inputs, seed=1, graph=architecture.graph)
    again = build(model, profile, inputs, seed=1, graph=architecture.graph)
    other = build(model, profile, inputs, seed=2, graph=architecture.graph)
    assert equal(first, again)
    assert architecture.name == "functional calls" or not equal(first, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_network_and_the_global_generator_are_untouched(architecture: Architecture) -> None:
    model = architecture.network()
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    widths = changed_widths(architecture)  # traces a network that it makes
    generator = torch.random.get_rng_state()
    build(model, WidthProfile(widths), architecture.example(), graph=architecture.graph)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_base_networks_weights_do_not_matter() -> None:
    """From scratch means from scratch: nothing trained is left, statistics included."""
    model, trained = small(), BY_NAME["chain"].network(seed=7)
    assert equal(
        build(model, WidthProfile({"conv1": 4}), IMAGE),
        build(trained, WidthProfile({"conv1": 4}), IMAGE).train(),
    )


def test_attention_is_drawn_afresh_too() -> None:
    model = Branches(
        lambda net, x: net.attention(x, x, x)[0],
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    inputs = torch.zeros(1, 5, 8)
    built = build(model, WidthProfile({}), inputs)
    assert not torch.equal(built.attention.in_proj_weight, model.attention.in_proj_weight)


class Recipe(nn.Sequential):
    """A network with an initialisation of its own."""

    def __init__(self) -> None:
        super().__init__(conv(3, 6), nn.ReLU(), conv(6, 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for number in (0, 2):
            nn.init.constant_(self[number].weight, self[number].out_channels)
            nn.init.constant_(self[number].bias, number)


def test_the_networks_own_recipe_comes_first() -> None:
    built = build(Recipe(), WidthProfile({"0": 9}), IMAGE)
    assert built[0].weight.unique().tolist() == [9]
    assert built[2].weight.unique().tolist() == [4]
    assert built[2].bias.unique().tolist() == [2]


def test_a_blocks_own_recipe_has_the_last_word_over_its_layers() -> None:
    built = build(chain(block=Recipe(), last=conv(4, 5)), WidthProfile({"block.0": 9}), IMAGE)
    assert built.block[0].weight.unique().tolist() == [9]
    assert len(built.last.weight.unique()) > 1


def test_without_a_recipe_each_layer_has_its_own() -> None:
    """Bounds of a uniform distribution follow the new fan-in: 1 / √(9·width)."""
    built = build(small(), WidthProfile({"conv1": 100}), IMAGE, seed=3)
    bound = 1 / (9 * 100) ** 0.5
    assert built.conv2.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert built.bn1.running_mean.unique().tolist() == [0]
    assert built.bn1.running_var.unique().tolist() == [1]
    assert built.bn1.weight.unique().tolist() == [1]


def test_a_bare_parameter_is_like_that_of_the_base_network() -> None:
    architecture = BY_NAME["layer scale"]
    model = architecture.make()
    with torch.no_grad():
        model.scale.gamma.fill_(1e-2)
    built = build(model, WidthProfile({"stem": 9}), architecture.example())
    assert built.scale.gamma.shape == (9, 1, 1)
    assert torch.allclose(built.scale.gamma, torch.tensor(1e-2))


def test_mode_dtype_and_frozen_parameters_are_kept() -> None:
    model = small().double().eval()
    model.conv1.weight.requires_grad_(False)
    built = build(model, WidthProfile({"conv1": 3}), IMAGE.double())
    assert {p.dtype for p in built.parameters()} == {torch.float64}
    assert not built.training
    assert not built.conv1.weight.requires_grad


def test_what_is_tied_stays_tied() -> None:
    architecture = BY_NAME["tied parameter"]
    built = build(architecture.make(), WidthProfile({"stem": 9}), architecture.example())
    assert built.first.weight is built.second.weight
    assert built.first.weight.shape == (9, 9, 3, 3)


def test_a_given_graph_saves_the_trace() -> None:
    graph = trace(small(), IMAGE)
    one = build(small(), WidthProfile({"conv1": 3}), IMAGE, graph=graph)
    assert equal(one, build(small(), WidthProfile({"conv1": 3}), IMAGE))


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("chain", {"conv3": 3}, "no channel group 'conv3'"),
        ("chain", {"head.fc": 3}, "'head.fc' is pinned at 4 channels, got 3: the network's output"),
        ("group normalisation", {"first": 7}, "in units of 3, got width 7: choose a multiple of 3"),
        ("sizes of halves written in", {"first": 4}, "'first' is pinned at 8 channels, got 4"),
    ],
)
def test_widths_that_the_graph_forbids(name: str, widths: dict[str, int], message: str) -> None:
    architecture = BY_NAME[name]
    with pytest.raises(PlanError, match=message):
        build(architecture.make(), WidthProfile(widths), architecture.example())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_weights_are_the_same_on_every_device() -> None:
    generator = torch.cuda.get_rng_state()
    profile = WidthProfile({"conv1": 9})
    there = build(small().cuda(), profile, IMAGE.cuda(), seed=3)
    assert {parameter.device.type for parameter in there.parameters()} == {"cuda"}
    assert equal(there.cpu(), build(small(), profile, IMAGE, seed=3))
    assert torch.equal(torch.cuda.get_rng_state(), generator)


class Written(TorchDispatchMode):
    """Counts the numbers that operators write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and func._schema.name not in NOT_WRITING:
            self.total += result.numel()
        return result


NOT_WRITING = {"aten::empty", "aten::new_empty", "aten::empty_like", "aten::detach"}


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_building_writes_no_more_than_the_constructor(name: str) -> None:
    """Drawing is what both of them spend their time with; the base network is not copied."""
    builder = Builder(f"torchvision.models:{name}", {"weights": None})
    with Written() as by_constructor:
        base, recipe = recorded(builder)
    graph = trace(base, torch.zeros(1, 3, 64, 64))
    with Written() as by_build:
        build(base, WidthProfile({}), IMAGE, graph=graph, recipe=recipe)
    assert by_build.total <= by_constructor.total


def test_what_comes_empty_is_drawn() -> None:
    """Whatever the memory held before: two networks of one seed are equal, and finite."""
    builder = Builder("torchvision.models:mobilenet_v2", {"weights": None})
    base, recipe = recorded(builder)
    graph = trace(base, torch.zeros(1, 3, 64, 64))
    kept = [torch.full_like(p, torch.nan) for _ in range(3) for p in base.parameters()]
    del kept
    first, again = (
        build(base, WidthProfile({}), IMAGE, 3, graph=graph, recipe=recipe) for _ in range(2)
    )
    assert equal(first, again)
    assert all(bool(p.isfinite().all()) for p in first.parameters())
