"""A constructor's own initialisation, repeated at other widths."""

from __future__ import annotations

import networks
import pytest
import torch
from networks import chain, randomised, with_recipe
from torch import nn

from copycat import Builder, WidthProfile, build, recorded
from copycat.recipes import CONSTRUCTOR, LAYER, MATCHED, OWN
from pruning.errors import ModelError

IMAGE = torch.zeros(1, 3, 8, 8)
BUILDER = Builder("networks:with_recipe")


def built(width: int, seed: int = 0) -> nn.Module:
    model, recipe = recorded(BUILDER)
    return build(model, WidthProfile({"conv1": width}), IMAGE, seed, recipe=recipe)


def deviation(values: torch.Tensor) -> float:
    return values.detach().std().item()


@pytest.mark.parametrize("width", [400, 1000])
def test_fans_are_those_of_the_new_width(width: int) -> None:
    """Also where the constructor worked out the deviation itself."""
    model = built(width)
    fan_out, fan_in = 9 * width, 9 * width
    assert deviation(model.conv1.weight) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert deviation(model.conv2.weight) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_other_numbers_stay_as_they_are() -> None:
    model = built(12)
    assert deviation(model.head.fc.weight) == pytest.approx(0.123, rel=0.2)
    assert model.head.fc.bias.unique().tolist() == [5]


def test_a_network_of_the_base_width_is_drawn_as_its_constructor_draws_it() -> None:
    """Means and deviations of every parameter agree; none is left as it was."""
    wide = Builder("networks:with_recipe", {"width": 500})
    base, recipe = recorded(wide)
    drawn = build(base, WidthProfile({}), IMAGE, seed=5, recipe=recipe)
    for name, parameter in drawn.named_parameters():
        original = base.get_parameter(name)
        if parameter.numel() > 1000:
            assert deviation(parameter) == pytest.approx(deviation(original), rel=0.1), name
            assert not torch.equal(parameter, original)


def test_the_result_says_where_its_weights_come_from() -> None:
    model = built(9)
    assert model.weight_sources == {
        "conv1.weight": CONSTRUCTOR,
        "conv1.bias": LAYER,
        "conv2.weight": CONSTRUCTOR,
        "conv2.bias": LAYER,
        "scales.gamma": MATCHED,
        "scales.beta": MATCHED,
        "head.fc.weight": CONSTRUCTOR,
        "head.fc.bias": CONSTRUCTOR,
    }
    assert "weight_sources" not in model.state_dict()
    own = nn.Conv2d(3, 4, 1)
    assert set(build(own, WidthProfile({}), IMAGE).weight_sources.values()) == {OWN}


def test_what_is_not_a_parameter_any_more_is_not_in_the_recipe() -> None:
    """Scratch tensors are freed before the layers are made, and may be where those are then."""
    for _ in range(20):
        model, recipe = recorded(BUILDER)
        called = {"conv1.weight", "conv2.weight", "head.fc.weight", "head.fc.bias"}
        assert set(recipe.calls) == called
        assert [len(recipe.calls[name]) for name in sorted(called)] == [1, 1, 2, 1]
        assert not (model.conv1.bias == 7).any()


def test_seeds_decide_the_weights() -> None:
    first, again, other = built(9, seed=1), built(9, seed=1), built(9, seed=2)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_trained_weights_leave_no_trace_where_there_is_a_recipe() -> None:
    model, recipe = recorded(BUILDER)
    trained = randomised(with_recipe(), seed=3)
    trained.scales.load_state_dict(model.scales.state_dict())  # bare parameters have none
    one = build(model, WidthProfile({"conv1": 4}), IMAGE, recipe=recipe)
    other = build(trained, WidthProfile({"conv1": 4}), IMAGE, recipe=recipe)
    for name, source in one.weight_sources.items():
        if source != MATCHED:
            assert torch.equal(one.get_parameter(name), other.get_parameter(name)), name


def test_recording_ends_with_the_constructor() -> None:
    before = {name: getattr(nn.init, name) for name in dir(nn.init)}
    recorded(BUILDER)
    with pytest.raises(ModelError):
        recorded(Builder("networks:with_recipe", {"width": "six"}))
    assert {name: getattr(nn.init, name) for name in dir(nn.init)} == before


def test_recording_changes_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        plain = networks.with_recipe()
        torch.manual_seed(4)
        noted, _ = recorded(BUILDER)
    for name, value in plain.state_dict().items():
        assert torch.equal(noted.state_dict()[name], value), name


class Experts(nn.Module):
    """As timm's CondConv2d: its initialisation works at the sizes of its constructor alone."""

    def __init__(self, inputs: int, outputs: int, *, checks: bool) -> None:
        super().__init__()
        self.shape, self.checks = (outputs, inputs, 3, 3), checks
        self.weight = nn.Parameter(torch.empty(self.shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.checks and self.weight.shape != self.shape:
            raise ValueError("weight has the wrong shape")
        self.weight = nn.Parameter(torch.full(self.shape, 0.25).normal_(0.5, 0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight, padding=1)


class WholeExperts(Experts):
    """The network itself is initialised like that."""

    def __init__(self, *, checks: bool) -> None:
        super().__init__(3, 40, checks=checks)
        self.last = nn.Conv2d(40, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(x))


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_reset_for_the_old_sizes_is_passed_over(checks: bool, is_whole: bool) -> None:
    model: nn.Module = WholeExperts(checks=checks)
    name, group = "weight", "weight"
    if not is_whole:
        model = chain(first=Experts(3, 40, checks=checks), last=nn.Conv2d(40, 4, 1))
        name, group = "first.weight", "first"
    smaller = build(model, WidthProfile({group: 30}), IMAGE, seed=1)
    weight = smaller.get_parameter(name)
    assert weight.shape == (30, 3, 3, 3)
    assert smaller.weight_sources[name] == MATCHED
    assert smaller.weight_sources["last.weight"] == LAYER
    assert weight.mean().item() == pytest.approx(0.5, abs=0.01)
    assert deviation(weight) == pytest.approx(0.01, rel=0.2)
    assert smaller(IMAGE).shape == (1, 4, 8, 8)
