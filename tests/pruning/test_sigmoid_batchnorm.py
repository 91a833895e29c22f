"""σBN against eq. 2 of Suteu and Guo, and its conversion from and to BatchNorm2d."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import (
    KeepPlan,
    SigmoidBatchNorm2d,
    fold,
    remove_channels,
    to_sigmoid_batchnorm,
    trace,
)
from pruning.criteria import SigmoidScale
from pruning.sigmoid_batchnorm import SigmoidBatchNorm


def test_the_memory_format_is_kept() -> None:
    model = chain(first=conv(3, 6), norm=nn.BatchNorm2d(6), last=conv(6, 4))
    model = model.to(memory_format=torch.channels_last)
    example = torch.ones(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    converted = to_sigmoid_batchnorm(model, seed=0)
    for network in (converted, fold(converted)):
        for layer in (network.first, network.last):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            assert not layer.weight.is_contiguous()
        assert network(example).is_contiguous(memory_format=torch.channels_last)


MOMENTA = pytest.mark.parametrize("momentum", [0.1, 0.7, None])


def layer(momentum: float | None = 0.1, eps: float = 1e-3) -> SigmoidBatchNorm2d:
    norm = SigmoidBatchNorm2d(4, eps=eps, momentum=momentum)
    return randomised(norm, seed=1).double()  # type: ignore[return-value]


def images(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(5, 4, 6, 7, generator=generator, dtype=torch.float64)


def by_hand(x: Tensor, gamma: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Eq. 2, channel by channel."""
    columns = [
        (x[:, c] - mean[c]) / (variance[c] + eps).sqrt() / (1 + (-gamma[c]).exp())
        for c in range(x.shape[1])
    ]
    return torch.stack(columns, dim=1)


def test_eval_mode_is_equation_2() -> None:
    norm, x = layer().eval(), images()
    expected = by_hand(x, norm.weight, norm.running_mean, norm.running_var, eps=1e-3)
    assert torch.allclose(norm(x), expected, rtol=1e-12, atol=1e-12)


@MOMENTA
def test_train_mode_is_equation_2_with_the_statistics_of_the_batch(momentum: float | None) -> None:
    norm, x = layer(momentum).train(), images()
    pixels = x.transpose(0, 1).flatten(1)
    expected = by_hand(x, norm.weight, pixels.mean(1), pixels.var(1, correction=0), eps=1e-3)
    assert torch.allclose(norm(x), expected, rtol=1e-12, atol=1e-12)


@MOMENTA
def test_statistics_and_outputs_are_those_of_batchnorm2d(momentum: float | None) -> None:
    ours = layer(momentum)
    stock = nn.BatchNorm2d(4, eps=1e-3, momentum=momentum).double()
    ours.reset_running_stats()
    with torch.no_grad():
        stock.weight.copy_(ours.weight.sigmoid())
    for seed in range(3):
        assert torch.allclose(ours(images(seed)), stock(images(seed)), rtol=1e-12, atol=1e-12)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(ours, name), getattr(stock, name), rtol=1e-12), name
    assert ours.num_batches_tracked == 3
    assert torch.allclose(ours.eval()(images(9)), stock.eval()(images(9)), rtol=1e-12, atol=1e-12)


def test_the_gradient_of_gamma() -> None:
    """∂y/∂γ = σ(γ)·(1 − σ(γ)) times the normalised input."""
    norm, x = layer().eval(), images()
    norm(x).sum().backward()
    normalised = (norm(x) / norm.importance[:, None, None]).sum((0, 2, 3))
    expected = normalised * norm.importance * (1 - norm.importance)
    assert norm.weight.grad is not None
    assert torch.allclose(norm.weight.grad, expected, rtol=1e-9)


def test_parameters_and_importance() -> None:
    norm = SigmoidBatchNorm2d(4)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert norm.bias is None
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, -40.0, 40.0, 1.0]))
    assert torch.allclose(
        norm.importance, torch.tensor([0.5, 0.0, 1.0, 1 / (1 + 2.718281828459045**-1)])
    )


def test_the_input_must_be_images() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        SigmoidBatchNorm2d(4)(torch.zeros(2, 4))


def network() -> nn.Module:
    model = chain(
        conv1=conv(3, 5),
        bn1=nn.BatchNorm2d(5, eps=1e-2, momentum=0.3),
        conv2=conv(5, 4),
        bn2=nn.BatchNorm2d(4, momentum=None),
        plain=nn.BatchNorm2d(4, affine=False),
        fresh=nn.BatchNorm2d(4, track_running_stats=False),
        head=head(4),
    )
    return randomised(model)


def test_conversion_replaces_batch_norms_that_have_a_scale() -> None:
    model = network().double()
    model.bn2.eval()
    converted = to_sigmoid_batchnorm(model)
    kinds = {name: type(module) for name, module in converted.named_modules()}
    assert kinds["bn1"] is kinds["bn2"] is kinds["fresh"] is SigmoidBatchNorm2d
    assert kinds["plain"] is nn.BatchNorm2d
    for name in ("bn1", "bn2", "fresh"):
        old, new = model.get_submodule(name), converted.get_submodule(name)
        assert (new.eps, new.momentum, new.training) == (old.eps, old.momentum, old.training)
        assert new.weight.dtype == torch.float64
        assert new.track_running_stats == old.track_running_stats
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(converted.bn1, name), getattr(model.bn1, name))
        assert getattr(converted.fresh, name) is None
    assert torch.equal(converted.conv1.weight, model.conv1.weight)


def test_conversion_leaves_the_network_and_the_global_generator_alone() -> None:
    model = network()
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    generator = torch.random.get_rng_state()
    converted = to_sigmoid_batchnorm(model, seed=3)
    assert torch.equal(torch.random.get_rng_state(), generator)
    with torch.no_grad():
        for tensor in converted.state_dict().values():
            tensor.zero_()
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_seeds_decide_gamma() -> None:
    model = network()
    first, again, other = (to_sigmoid_batchnorm(model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.bn1.weight, again.bn1.weight)
    assert not torch.equal(first.bn1.weight, other.bn1.weight)
    assert not torch.equal(first.bn1.weight[:4], first.bn2.weight)


def test_gamma_is_standard_normal() -> None:
    converted = to_sigmoid_batchnorm(nn.BatchNorm2d(40_000), seed=0)
    torch.manual_seed(0)
    for norm in (converted, SigmoidBatchNorm2d(40_000)):
        gamma = norm.weight.detach()
        assert abs(gamma.mean().item()) < 4 / 200
        assert gamma.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("training", [False, True])
def test_folding_keeps_the_output(training: bool) -> None:
    model = randomised(to_sigmoid_batchnorm(network()), seed=4).double().train(training)
    folded = fold(model)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(folded(x), model(x), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(module, SigmoidBatchNorm2d) for module in folded.modules())
    assert {type(module) for module in folded.modules()} == {
        type(module) for module in network().modules()
    }
    assert torch.equal(folded.bn1.bias, torch.zeros(5, dtype=torch.float64))
    assert folded.bn1.momentum == 0.3
    assert folded.bn2.momentum is None


def test_folding_leaves_the_network_alone() -> None:
    model = to_sigmoid_batchnorm(network())
    state = copy.deepcopy(model.state_dict())
    fold(model)(torch.randn(2, 3, 8, 8))
    assert isinstance(model.bn1, SigmoidBatchNorm2d)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_network_that_is_one_layer() -> None:
    converted = to_sigmoid_batchnorm(nn.BatchNorm2d(4))
    assert isinstance(converted, SigmoidBatchNorm2d)
    assert type(fold(converted)) is nn.BatchNorm2d


def test_a_module_used_twice_stays_one_module() -> None:
    shared = nn.BatchNorm2d(4)
    converted = to_sigmoid_batchnorm(chain(first=shared, conv=conv(4, 4), second=shared))
    assert converted.first is converted.second


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_dimension_is_converted_and_folded_back(dims: int) -> None:
    stock = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    x = torch.randn(4, 5, *[3] * dims)
    converted = to_sigmoid_batchnorm(randomised(stock(5)))
    assert isinstance(converted, SigmoidBatchNorm)
    assert isinstance(converted, stock)
    torch.testing.assert_close(
        converted.eval()(x),
        (x.movedim(1, -1) - converted.running_mean)
        .div((converted.running_var + converted.eps).sqrt())
        .mul(converted.weight.sigmoid())
        .movedim(-1, 1),
    )
    folded = fold(converted)
    assert type(folded) is stock
    torch.testing.assert_close(folded(x), converted(x))


class Own(nn.BatchNorm2d):
    """A subclass with a forward pass of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Named(nn.BatchNorm2d):
    """A subclass that runs torch's code."""


def test_subclasses_are_converted_unless_they_are_not_torchs() -> None:
    assert isinstance(to_sigmoid_batchnorm(Named(4)), SigmoidBatchNorm)
    model = chain(conv=conv(3, 4), own=Own(4), sync=nn.SyncBatchNorm(4), named=Named(4))
    with pytest.warns(UserWarning, match=r"for sync \(SyncBatchNorm\), whose forward"):
        converted = to_sigmoid_batchnorm(model)
    assert isinstance(converted.own, SigmoidBatchNorm)
    assert isinstance(converted.named, SigmoidBatchNorm)
    patched = nn.BatchNorm2d(4)
    patched.forward = patched.forward  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="no sigmoid batch normalisation"):
        assert type(to_sigmoid_batchnorm(patched)) is nn.BatchNorm2d


def test_a_subclass_runs_its_own_code_with_the_bounded_scale() -> None:
    """In training, too; gradients reach γ, and what is folded gives the same again."""
    model = randomised(chain(conv=conv(3, 4), own=Own(4), last=conv(4, 2)), seed=1)
    converted = to_sigmoid_batchnorm(model, seed=2)
    layer, x = converted.own, torch.randn(5, 4, 3, 3)
    assert set(converted.state_dict()) == set(model.state_dict()) - {"own.bias"}
    expected = F.batch_norm(x, None, None, layer.weight.sigmoid(), training=True).relu()
    output = layer(x)
    torch.testing.assert_close(output, expected)
    assert int(layer.num_batches_tracked) == 1
    output.square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    assert isinstance(layer.weight, nn.Parameter)

    graph = trace(converted, torch.zeros(1, 3, 8, 8))
    scores = SigmoidScale().score(converted, graph)
    assert torch.equal(scores["conv"], layer.importance.detach())
    smaller = remove_channels(converted, graph, KeepPlan({"conv": (0, 2)}))
    folded = fold(copy.deepcopy(smaller)).eval()
    assert type(folded.own) is Own
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(image), smaller.eval()(image))


@pytest.mark.parametrize("learns", [True, False])
def test_what_was_set_on_a_layer_is_kept(learns: bool) -> None:
    seen: list[torch.Size] = []
    model = network()
    model.bn1.weight.requires_grad_(learns)
    model.bn1.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    model.bn1.note = ["mine"]
    converted = to_sigmoid_batchnorm(model)
    folded = fold(converted)
    for result in (converted, folded):
        assert result.bn1.weight.requires_grad is learns
        assert result.bn1.note == ["mine"]
        assert result.bn1.note is not model.bn1.note
        result(torch.zeros(1, 3, 8, 8))
    assert folded.bn1.bias.requires_grad is learns
    assert seen == [(1, 5, 8, 8)] * 2


def test_a_scale_that_two_layers_share_stays_shared() -> None:
    model = chain(first=nn.BatchNorm2d(4), conv=conv(4, 4), second=nn.BatchNorm2d(4))
    model.second.weight = model.first.weight
    converted = to_sigmoid_batchnorm(model)
    assert converted.first.weight is converted.second.weight
    folded = fold(converted)
    assert folded.first.weight is folded.second.weight
    assert torch.equal(folded.first.weight, converted.first.importance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_scales_that_are_hardly_there_are_folded_to_the_last_bit(dtype: torch.dtype) -> None:
    """Subnormal scales included: nothing is flushed to zero that the layer multiplies by."""
    norm = SigmoidBatchNorm2d(6).to(dtype).eval()
    smallest = torch.finfo(dtype).smallest_normal
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-1e4, math.log(smallest) - 0.5, -12.0, 0.0, 12.0, 1e4]))
    scales = fold(norm).weight.detach()
    assert 0 < scales[1] < smallest
    assert scales[[0, 3, 5]].tolist() == [0, 0.5, 1]
    x = torch.full((1, 6, 2, 2), 1e3, dtype=dtype)
    assert torch.equal(fold(norm)(x), norm(x))
    assert norm(x)[0, 1].min() > 0
