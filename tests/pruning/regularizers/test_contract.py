"""What every regularizer must do, whatever it penalises."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from networks import Branches, chain, conv, head, randomised
from torch import Tensor, nn

from pruning import (
    ChannelGraph,
    KeepPlan,
    regularizers,
    remove_channels,
    to_sigmoid_batchnorm,
    trace,
)
from pruning.errors import ConfigError, CriterionError
from pruning.regularizers import (
    RNI,
    DeepHoyer,
    GroupDeepHoyer,
    Polarization,
    Regularizer,
    Slimming,
    scope,
)

IMAGE = torch.zeros(1, 3, 8, 8)


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer with what the contract says of it.

    make: from a strength and a graph.
    convert: from a stock network to one that the regularizer is for.
    penalised: the parameters of `network()` that it is about.
    is_signed: whether it may be negative.
    """

    name: str
    make: Callable[[float, ChannelGraph | None], Regularizer]
    convert: Callable[[nn.Module], nn.Module]
    penalised: tuple[str, ...]
    is_signed: bool = False

    def __str__(self) -> str:
        return self.name


stock = copy.deepcopy


SCALES = ("bn1.weight", "bn2.weight", "bn3.weight")
FILTERS = ("conv1.weight", "conv2.weight", "conv3.weight")
CASES = [
    Case("RNI", lambda s, g: RNI(s, 0.4, graph=g), to_sigmoid_batchnorm, SCALES),
    Case("Slimming", lambda s, g: Slimming(s, graph=g), stock, SCALES),
    Case("Slimming σBN", lambda s, g: Slimming(s, graph=g), to_sigmoid_batchnorm, SCALES),
    Case("Polarization", lambda s, g: Polarization(s, graph=g), stock, SCALES, is_signed=True),
    Case(
        "Polarization σBN",
        lambda s, g: Polarization(s, 0.3, graph=g),
        to_sigmoid_batchnorm,
        SCALES,
        is_signed=True,
    ),
    Case("DeepHoyer", lambda s, g: DeepHoyer(s, graph=g), stock, SCALES),
    Case("DeepHoyer σBN", lambda s, g: DeepHoyer(s, graph=g), to_sigmoid_batchnorm, SCALES),
    Case("GroupDeepHoyer", lambda s, g: GroupDeepHoyer(s, graph=g), stock, FILTERS),
]
EXPORTED = [
    kind
    for kind in vars(regularizers).values()
    if inspect.isclass(kind) and issubclass(kind, Regularizer) and not inspect.isabstract(kind)
]
_KINDS = {type(case.make(1.0, None)) for case in CASES}


def usual(kind: type[Regularizer]) -> Case:
    """A regularizer that is never negative, on what it has as its target."""

    def make(strength: float, graph: ChannelGraph | None) -> Regularizer:
        return kind(strength, graph=graph)

    parameters = inspect.signature(kind).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.name != "strength"]
    assert not needed, f"{kind.__name__} needs {', '.join(needed)}: give it a case in CASES"
    target = make(1.0, None).target
    convert = to_sigmoid_batchnorm if target is scope.SIGMOID_GAMMA else stock
    is_on_filters = target in (scope.FILTERS, scope.FILTERS_AND_UNITS)
    return Case(kind.__name__, make, convert, FILTERS if is_on_filters else SCALES)


CASES += [usual(kind) for kind in EXPORTED if kind not in _KINDS]
"""Every regularizer: a new one is held to the contract as soon as it is exported."""

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def network() -> nn.Module:
    """conv3 and bn3 are pinned: their channels are the output."""
    return chain(
        conv1=conv(3, 5),
        bn1=nn.BatchNorm2d(5),
        relu1=nn.ReLU(),
        conv2=conv(5, 6),
        bn2=nn.BatchNorm2d(6),
        relu2=nn.ReLU(),
        conv3=conv(6, 4, 1),
        bn3=nn.BatchNorm2d(4),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )


def model_for(case: Case, seed: int = 0) -> nn.Module:
    return randomised(case.convert(network()), seed).double()


def gradients(value: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Per parameter; zeros where the value does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def entries(parameter: Tensor) -> Iterator[tuple[int, ...]]:
    yield from torch.ones(parameter.shape).nonzero().tolist()


@every_case
def test_the_value_is_a_scalar_that_can_be_differentiated(case: Case) -> None:
    value = case.make(0.1, None)(model_for(case))
    assert value.shape == ()
    assert value.isfinite()
    assert value.requires_grad
    value.backward()


@every_case
@pytest.mark.parametrize("seed", range(5))
def test_the_value_is_at_least_zero_where_that_is_said(case: Case, seed: int) -> None:
    value = case.make(0.1, None)(model_for(case, seed))
    assert case.is_signed or value >= 0
    assert value != 0


@every_case
@pytest.mark.parametrize("has_graph", [False, True])
def test_gradients_are_those_of_finite_differences(case: Case, has_graph: bool) -> None:
    model, step = model_for(case), 1e-6
    regularizer = case.make(0.7, trace(network(), IMAGE) if has_graph else None)
    found = gradients(regularizer(model), model)
    for name in case.penalised:  # the others have none
        parameter = model.get_parameter(name)
        for entry in map(tuple, entries(parameter)):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    before = parameter[entry].item()
                    parameter[entry] += sign * step
                    sides.append(regularizer(model).item())
                    parameter[entry] = before
            numeric = (sides[0] - sides[1]) / (2 * step)
            assert found[name][entry].item() == pytest.approx(numeric, rel=1e-5, abs=1e-8), name


@every_case
def test_only_what_is_penalised_has_a_gradient(case: Case) -> None:
    model = model_for(case)
    found = gradients(case.make(1.0, None)(model), model)
    assert {name for name, gradient in found.items() if gradient.any()} == set(case.penalised)


@every_case
def test_a_graph_leaves_pinned_channels_alone(case: Case) -> None:
    """The graph may come from before the conversion: names stay the same."""
    model = model_for(case)
    regularizer = case.make(1.0, trace(network(), IMAGE))
    value = regularizer(model)
    found = gradients(value, model)
    expected = {name for name in case.penalised if "3" not in name}
    assert {name for name, gradient in found.items() if gradient.any()} == expected
    with torch.no_grad():
        model.bn3.weight += 1  # for Polarization also part of the mean
        model.conv3.weight += 1
    assert regularizer(model).item() == value.item()


def residual_network() -> nn.Module:
    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        x = net.bn1(net.conv1(x))
        return net.head(x + net.bn3(net.conv3(net.bn2(net.conv2(x)).relu())))

    layers = {"conv1": conv(3, 4), "conv2": conv(4, 5), "conv3": conv(5, 4), "head": head(4)}
    return Branches(wiring, **layers, **{f"bn{n}": nn.BatchNorm2d(w) for n, w in LAYERS})


LAYERS = ((1, 4), (2, 5), (3, 4))


@every_case
def test_a_graph_leaves_residual_streams_alone_unless_it_says_that_they_are_pruned(
    case: Case,
) -> None:
    """RNI (§5.1) does not prune them; conv1 and conv3 make the stream."""
    network = residual_network()
    model, graph = randomised(case.convert(network)).double(), trace(network, IMAGE)
    for told, layers in [
        (graph, "2"),
        (graph.pruning(["conv2"]), "2"),
        (graph.pruning(["conv1"]), "13"),
        (graph.pruning(["conv1", "conv2"]), "123"),
    ]:
        found = gradients(case.make(1.0, told)(model), model)
        penalised = {name for name, gradient in found.items() if gradient.any()}
        assert penalised == {name for name in case.penalised if name.split(".")[0][-1] in layers}


@every_case
def test_where_all_can_be_pruned_a_graph_changes_nothing(case: Case) -> None:
    plain = chain(
        conv1=conv(3, 5),
        bn1=nn.BatchNorm2d(5),
        conv2=conv(5, 4, 1),
        bn2=nn.BatchNorm2d(4),
        head=head(4),
    )
    model = randomised(case.convert(plain)).double()
    with_graph = case.make(1.0, trace(plain, IMAGE))
    assert with_graph(model).item() == case.make(1.0, None)(model).item()


@every_case
def test_the_value_is_linear_in_the_strength(case: Case) -> None:
    model = model_for(case)
    whole, quarter = (case.make(strength, None)(model).item() for strength in (1.0, 0.25))
    assert quarter == pytest.approx(whole / 4, rel=1e-14)
    assert case.make(0.0, None)(model).item() == 0


@every_case
def test_the_order_of_channels_does_not_matter(case: Case) -> None:
    model = model_for(case)
    value = case.make(1.0, None)(model).item()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter[torch.randperm(len(parameter)).to(parameter.device)])
    assert case.make(1.0, None)(model).item() == pytest.approx(value, rel=1e-12)


@every_case
@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-2),
        (torch.bfloat16, torch.float32, 5e-2),
    ],
    ids=str,
)
def test_the_type_follows_the_model(
    case: Case, dtype: torch.dtype, expected: torch.dtype, tolerance: float
) -> None:
    model = model_for(case)
    exact = case.make(1.0, None)(model).item()
    value = case.make(1.0, None)(model.to(dtype))
    assert value.dtype == expected
    assert value.item() == pytest.approx(exact, rel=tolerance)


@every_case
@pytest.mark.parametrize("has_graph", [False, True])
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_device_follows_the_model(case: Case, device: str, has_graph: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = model_for(case)
    regularizer = case.make(1.0, trace(network(), IMAGE) if has_graph else None)
    exact = regularizer(model).item()
    value = regularizer(model.to(device))
    assert value.device.type == device
    if device != "meta":
        assert value.item() == pytest.approx(exact, rel=1e-12)


@every_case
def test_networks_of_zeros_have_finite_gradients(case: Case) -> None:
    model = model_for(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    value = case.make(1.0, None)(model)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(value, model).values())


@every_case
def test_it_joins_any_training_loop(case: Case) -> None:
    model = model_for(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3])
    regularizer = case.make(0.01, None)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), targets) + regularizer(model)
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_case
def test_a_step_against_the_gradient_lowers_it(case: Case) -> None:
    model = model_for(case)
    regularizer = case.make(1.0, None)
    value = regularizer(model)
    found = gradients(value, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.sub_(1e-5 * found[name])
    assert regularizer(model) < value


@every_case
def test_the_model_is_left_as_it_is(case: Case) -> None:
    model = model_for(case)
    before = copy.deepcopy(model.state_dict())
    case.make(1.0, None)(model)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


@every_case
def test_a_network_without_what_it_penalises_is_refused(case: Case) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    with pytest.raises(CriterionError, match=r"Sequential has no (sigmoid )?(batch|convolution)"):
        case.make(1.0, None)(model)


@every_case
def test_a_network_in_which_all_of_it_is_pinned_is_refused(case: Case) -> None:
    model = chain(conv=conv(3, 4), bn=nn.BatchNorm2d(4))
    regularizer = case.make(1.0, trace(model, IMAGE))
    with pytest.raises(CriterionError, match=r"along a prunable group.*without a graph"):
        regularizer(case.convert(model))


@every_case
def test_the_graph_of_another_network_is_refused(case: Case) -> None:
    other = chain(first=conv(3, 5), norm=nn.BatchNorm2d(5), last=conv(5, 4))
    with pytest.raises(CriterionError, match=r"which has no layer 'first'.*trace this network"):
        case.make(1.0, trace(other, IMAGE))(model_for(case))


@every_case
def test_the_graph_of_the_network_before_pruning_is_refused(case: Case) -> None:
    model, graph = case.convert(network()), trace(network(), IMAGE)
    smaller = remove_channels(model, graph, KeepPlan({"conv1": (0, 2)}))
    with pytest.raises(CriterionError, match=r"5 channels along axis 0 of conv1.*\(2, 3, 3, 3\)"):
        case.make(1.0, graph)(smaller)


@every_case
def test_a_wrapped_network_is_refused_with_a_graph(case: Case) -> None:
    model = model_for(case)
    wrapped = nn.Sequential(model)
    assert case.make(1.0, None)(wrapped).item() == case.make(1.0, None)(model).item()
    with pytest.raises(CriterionError, match="not a wrapper of it"):
        case.make(1.0, trace(network(), IMAGE))(wrapped)


@every_case
@pytest.mark.parametrize("strength", [-1e-9, -1, math.inf, math.nan])
def test_strengths_that_are_refused(case: Case, strength: float) -> None:
    name = case.name.split()[0]
    message = f"the strength of {name} must be at least 0, got {strength}"
    with pytest.raises(ConfigError, match=message):
        case.make(strength, None)


@every_case
def test_a_layer_used_twice_counts_once(case: Case) -> None:
    once = case.make(1.0, None)(model_for(case)).item()
    model = model_for(case)
    twice = Branches(lambda net, x: net.first(x) + net.again(x), first=model, again=model)
    assert case.make(1.0, None)(twice).item() == once


def norm_over_conv_and_image() -> nn.Module:
    """bn scales 5 channels of conv1 and 3 of the image, which no plan removes."""
    return Branches(
        lambda net, x: net.head(net.bn(torch.cat([net.conv1(x), x], dim=1))),
        conv1=conv(3, 5),
        bn=nn.BatchNorm2d(8),
        head=head(8),
    )


@every_case
def test_a_norm_over_several_groups_is_penalised_where_it_can_be_pruned(case: Case) -> None:
    plain = norm_over_conv_and_image()
    model = randomised(case.convert(plain)).double()
    regularizer = case.make(1.0, trace(plain, IMAGE))
    found = gradients(regularizer(model), model)
    if case.penalised == SCALES:
        assert (found["bn.weight"] != 0).tolist() == [True] * 5 + [False] * 3
    else:
        assert not found["bn.weight"].any()
    assert regularizer(model.to("meta")).device.type == "meta"


@every_case
def test_channels_of_no_group_are_left_alone_whatever_the_groups_are(case: Case) -> None:
    plain = norm_over_conv_and_image()
    graph = trace(plain, IMAGE)
    graph.groups = tuple(dataclasses.replace(group, pinned=None) for group in graph.groups)
    model = randomised(case.convert(plain)).double()
    assert not gradients(case.make(1.0, graph)(model), model)["bn.weight"][5:].any()


@every_case
def test_layers_that_the_graph_does_not_hold_are_left_alone(case: Case) -> None:
    """A normalisation of the image scales no channel of any group."""
    plain = chain(bn0=nn.BatchNorm2d(3), conv1=conv(3, 5), bn1=nn.BatchNorm2d(5), head=head(5))
    model = randomised(case.convert(plain)).double()
    found = gradients(case.make(1.0, trace(plain, IMAGE))(model), model)
    assert not found["bn0.weight"].any()
    assert found["bn1.weight"].any() == (case.penalised == SCALES)


@every_case
def test_bare_tensors_of_a_network_belong_to_its_graph(case: Case) -> None:
    """The graph lists a parameter or buffer that no layer owns as a layer of its own."""
    plain = Branches(
        lambda net, x: net.head(net.bn(net.conv1(x)) * net.gain * net.mask),
        conv1=conv(3, 5),
        bn=nn.BatchNorm2d(5),
        head=head(5),
    )
    plain.gain = nn.Parameter(torch.ones(5, 1, 1))
    plain.register_buffer("mask", torch.ones(5, 1, 1))
    graph = trace(plain, IMAGE)
    assert {"gain", "mask"} <= set(graph.group("conv1").layers)
    assert case.make(1.0, graph)(case.convert(plain)).isfinite()


def test_layers_of_a_training_are_looked_up_once(monkeypatch: pytest.MonkeyPatch):
    model = to_sigmoid_batchnorm(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)))
    regularizer = RNI(0.1)
    penalty = regularizer.on(model)
    monkeypatch.setattr(nn.Module, "named_modules", lambda *_: pytest.fail("looked up again"))
    before = penalty()
    with torch.no_grad():
        model[1].weight.add_(1)
    assert penalty() != before
    monkeypatch.undo()
    assert torch.equal(penalty(), regularizer(model))
