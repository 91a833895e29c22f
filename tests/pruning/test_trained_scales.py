"""What σBN cannot say is said by other layers, and no output changes, in training neither."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from networks import Branches, call, chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import SigmoidBatchNorm2d, to_sigmoid_batchnorm
from pruning.networks.torch_interior import BatchNorm, tree_leaves
from pruning.trained_scales import bounded_scales

LARGEST = 0.9
EXAMPLE = torch.zeros(1, 3, 8, 8, dtype=torch.float64)


def images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)


def scaled(model: nn.Module) -> nn.Module:
    """`model` in double precision, with scales of both signs and beyond 1, and offsets."""
    model = randomised(model).double()
    with torch.no_grad():
        norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.affine]
        for number, layer in enumerate(norms):
            layer.weight.copy_(torch.linspace(-1.5, 2 + number, layer.num_features))
    return model


def outputs(model: nn.Module, inputs: object, *, training: bool) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        returned = call(copy.deepcopy(model).train(training), inputs)  # type: ignore[arg-type]
    return [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)]


def preactivated() -> nn.Module:
    """Normalised is a sum that goes on elsewhere, too: its layers can't be turned round."""
    return Branches(
        lambda net, x: net.head((y := net.stem(x)) + net.last(F.relu(net.norm(y)))),
        stem=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        last=conv(6, 6),
        head=head(6),
    )


def residual(activation: Callable[[Tensor], Tensor] = F.relu) -> nn.Module:
    """Two normalisations are added, so that they share a factor; behind the sum are weights."""
    return Branches(
        lambda net, x: net.head(activation(net.bn1(net.a(x)) + net.bn2(net.b(x)))),
        a=conv(3, 6, bias=False),
        bn1=nn.BatchNorm2d(6),
        b=conv(3, 6),
        bn2=nn.BatchNorm2d(6),
        head=head(6),
    )


def linear_bottleneck() -> nn.Module:
    """As in MobileNetV2: what is normalised is read by layers without padding alone."""
    return chain(
        project=nn.Conv2d(3, 6, 1, bias=False),
        bn1=nn.BatchNorm2d(6),
        expand=nn.Conv2d(6, 8, 1, bias=False),
        bn2=nn.BatchNorm2d(8),
        relu=nn.ReLU6(),
        depthwise=nn.Conv2d(8, 8, 3, groups=8),
        bn3=nn.BatchNorm2d(8),
        grouped=nn.Conv2d(8, 4, 1, groups=2),
        head=head(4),
    )


def plain() -> nn.Module:
    return chain(
        conv=conv(3, 6, bias=False),
        bn=nn.BatchNorm2d(6),
        relu=nn.LeakyReLU(inplace=True),
        pool=nn.MaxPool2d(2),
        head=head(6),
    )


def perceptron() -> nn.Module:
    return chain(
        flatten=nn.Flatten(),
        first=nn.Linear(192, 6),
        bn=nn.BatchNorm1d(6),
        second=nn.Linear(6, 5),
        relu=nn.ReLU(),
        last=nn.Linear(5, 4),
    )


def left(model: nn.Module) -> dict[str, str]:
    """Per normalisation what of its sign, factor and offset stayed on it: such as "so"."""
    moved = bounded_scales(model, EXAMPLE, LARGEST)
    return {
        name: "s" * bool((layer.weight < 0).any())
        + "f" * bool((layer.weight.abs() > LARGEST + 1e-9).any())
        + "o" * bool((layer.bias != 0).any())
        for name, layer in moved.named_modules()
        if isinstance(layer, BatchNorm)
    }


LEFT: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "plain": (plain, {"bn": "o"}),
    "preactivated": (preactivated, {"norm": "so"}),
    "residual": (residual, {"bn1": "o", "bn2": "o"}),
    "residual with SiLU": (lambda: residual(F.silu), {"bn1": "fo", "bn2": "fo"}),
    "linear bottleneck": (linear_bottleneck, {"bn1": "", "bn2": "fo", "bn3": ""}),
    "perceptron": (perceptron, {"bn": ""}),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_can_be_moved_is_moved(name: str) -> None:
    make, expected = LEFT[name]
    assert left(scaled(make())) == expected


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LEFT)
def test_outputs_and_gradients_of_inputs_stay(name: str, training: bool) -> None:
    model = scaled(LEFT[name][0]())
    moved = bounded_scales(model, EXAMPLE, LARGEST)
    results = []
    for network in (model, moved):
        x = images().requires_grad_()
        y = copy.deepcopy(network).train(training)(x)
        (y**2).sum().backward()
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "architecture",
    [a for a in ARCHITECTURES if any(isinstance(m, BatchNorm) for m in a.make().modules())],
    ids=lambda a: a.name,
)
def test_no_network_computes_anything_else(architecture: Architecture) -> None:
    model = scaled(architecture.make())
    example = architecture.example(dtype=torch.float64)
    moved = bounded_scales(model, example, LARGEST)
    for training in (False, True):
        before, after = (outputs(m, example, training=training) for m in (model, moved))
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)


def shared_convolution() -> nn.Module:
    """One layer before two normalisations: turned round for one, it would be for both."""
    return Branches(
        lambda net, x: net.head(net.bn1(net.a(x)).relu() + net.bn2(net.a(x.flip(3))).relu()),
        a=conv(3, 6),
        bn1=nn.BatchNorm2d(6),
        bn2=nn.BatchNorm2d(6),
        head=head(6),
    )


def shared_normalisation() -> nn.Module:
    return Branches(
        lambda net, x: net.head(net.bn(net.a(x)).relu() + net.bn(net.b(x)).relu()),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
        bn=nn.BatchNorm2d(6),
        head=head(6),
    )


def shared_consumer() -> nn.Module:
    """One layer reads a normalisation, and the image's own sum."""
    return Branches(
        lambda net, x: (
            net.b(net.bn(net.a(x)).relu()) + net.b(x.sum(1, keepdim=True).expand(-1, 6, 8, 8))
        ),
        a=conv(3, 6),
        bn=nn.BatchNorm2d(6),
        b=conv(6, 4),
    )


def changed_in_place_under_a_view() -> nn.Module:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        y, z = net.bn1(net.a(x)), net.bn2(net.b(x))
        seen = y.detach()
        y.add_(z)
        return net.c(seen) + net.d(z)

    return Branches(
        run,
        a=conv(3, 6),
        bn1=nn.BatchNorm2d(6),
        b=conv(3, 6),
        bn2=nn.BatchNorm2d(6),
        c=nn.Conv2d(6, 4, 1),
        d=nn.Conv2d(6, 4, 1),
    )


def returned_too() -> nn.Module:
    return Branches(
        lambda net, x: (y := net.bn(net.a(x)), net.b(y)),
        a=conv(3, 6),
        bn=nn.BatchNorm2d(6),
        b=nn.Conv2d(6, 4, 1),
    )


def added_to_a_number() -> nn.Module:
    return Branches(
        lambda net, x: net.b((net.bn(net.a(x)) + 1).relu()),
        a=conv(3, 6),
        bn=nn.BatchNorm2d(6),
        b=nn.Conv2d(6, 4, 1),
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        *(shared_convolution, shared_normalisation, shared_consumer, returned_too),
        *(changed_in_place_under_a_view, added_to_a_number),
    ],
)
def test_what_is_read_twice_or_changed_stays(make: Callable[[], nn.Module], training: bool) -> None:
    model = scaled(make())
    before, after = (
        outputs(m, images(), training=training)
        for m in (model, bounded_scales(model, EXAMPLE, LARGEST))
    )
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_the_network_is_left_alone() -> None:
    model = scaled(linear_bottleneck())
    state = copy.deepcopy(model.state_dict())
    bounded_scales(model, EXAMPLE, LARGEST)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_sigmoid_batchnorm_of_a_trained_network_computes_the_same_where_no_offset_is_lost() -> None:
    model = scaled(residual())
    for layer in (model.bn1, model.bn2):
        nn.init.zeros_(layer.bias)
    converted = to_sigmoid_batchnorm(model, example_input=EXAMPLE)
    for training in (False, True):
        before, after = (outputs(m, images(), training=training) for m in (model, converted))
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert isinstance(converted.bn1, SigmoidBatchNorm2d)
    largest = torch.cat([model.bn1.weight, model.bn2.weight]).detach().abs().max()
    expected = model.bn1.weight.detach().abs() * 0.99 / largest
    torch.testing.assert_close(converted.bn1.importance.detach(), expected)


def test_scales_that_cannot_be_moved_are_clamped_to_what_can_be_learned() -> None:
    model = scaled(residual(F.silu))
    with torch.no_grad():
        model.bn1.weight[:3] = torch.tensor([0.0, 5.0, -0.5])
    scales = to_sigmoid_batchnorm(model, example_input=EXAMPLE).bn1.importance.detach()
    torch.testing.assert_close(scales[:3], torch.tensor([1e-4, 0.99, 0.5], dtype=torch.float64))
