"""Second-order scores against explicit Hessians, and against removal where they are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import PRUNABLE, Architecture
from gating import tensors_of
from networks import Branches, chain, conv, head, randomised
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning import ChannelGraph, trace
from pruning.criteria import Batches, Obd, Oracle, TaylorSecondOrder
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates

ONCE = ("deformable convolution", "deformable convolution without a bias")
"""Networks that torch differentiates once only."""

IMAGES = [
    architecture
    for architecture in PRUNABLE
    if isinstance(architecture.example(), Tensor) and architecture.name not in ONCE
]
IMAGE = torch.zeros(1, 3, 8, 8)


def small(activation: type[nn.Module]) -> nn.Module:
    """A residual stream of 4 channels, 3 channels inside its branch, and a classifier."""
    return randomised(
        Branches(
            lambda net, x: net.head((y := net.act(net.bn(net.stem(x)))) + net.b(net.act(net.a(y)))),
            stem=conv(3, 4),
            bn=nn.BatchNorm2d(4),
            act=activation(),
            a=conv(4, 3),
            b=conv(3, 4),
            head=head(4),
        )
    ).double()


def drawn(num_batches: int, num_samples: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(num_samples, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(4, (num_samples,), generator=generator),
        )
        for _ in range(num_batches)
    ]


def explicit(
    model: nn.Module, graph: ChannelGraph, inputs: Tensor, targets: Tensor
) -> tuple[ChannelGates, Tensor, Tensor]:
    """The gates, the gradient (U,) and the whole Hessian (U, U) of the loss in them."""
    gates = ChannelGates(model.eval(), graph)

    def error(values: Tensor) -> Tensor:
        with gates.multiplying(values):
            return F.cross_entropy(model(inputs), targets)

    ones = torch.ones(gates.num_units, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(error, ones)
    return gates, gradient, torch.autograd.functional.hessian(error, ones)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_scores_are_those_of_the_explicit_hessian(activation: type[nn.Module]) -> None:
    model, batches = small(activation), drawn(1)
    graph = trace(model, IMAGE.double())
    gates, gradient, hessian = explicit(model, graph, *batches[0])
    half = hessian.diagonal() / 2
    assert half.abs().min() > 1e-6
    taylor = TaylorSecondOrder().score(model, graph, batches)
    torch.testing.assert_close(gates.joined(taylor), (gradient - half) ** 2)
    torch.testing.assert_close(gates.joined(Obd().score(model, graph, batches)), half)


def squares(output: object, targets: Tensor) -> Tensor:
    return torch.stack([(tensor**2).sum() for tensor in tensors_of(output)]).sum()


@pytest.mark.parametrize("architecture", [a for a in PRUNABLE if a.name in ONCE], ids=str)
def test_a_network_that_is_differentiable_once_is_refused(architecture: Architecture) -> None:
    batches = [(architecture.example(), torch.zeros(1, dtype=torch.long))]
    with pytest.raises(CriterionError, match=r"differentiated twice .*: choose a first-order"):
        Obd(loss=squares).score(architecture.network(), architecture.graph, batches)


@pytest.mark.parametrize("architecture", IMAGES, ids=str)
def test_curvature_is_the_second_difference_of_the_loss(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, gates = architecture.example(1, torch.float64), ChannelGates(model, graph)
    scores = Obd(squares).score(model, graph, [(inputs, torch.zeros(1))])
    sizes = [1e-4, 0.0, -1e-4]
    for name, units in gates.by_group(torch.arange(gates.num_units)).items():
        for channel, unit in enumerate(graph.group(name).unit_of_channel.tolist()):
            step = torch.zeros(gates.num_units, dtype=torch.float64)
            step[units[unit]] = 1
            errors = []
            for size in sizes:
                with torch.no_grad(), gates.multiplying(1 + size * step):
                    errors.append(squares(model(inputs), inputs))
            half = (errors[0] - 2 * errors[1] + errors[2]) / 1e-8 / 2
            tolerance = 1e-4 * float(errors[1])
            torch.testing.assert_close(scores[name][channel], half, rtol=1e-3, atol=tolerance)


def test_taylor_is_the_oracle_where_the_loss_is_quadratic_in_the_gates() -> None:
    model = randomised(chain(hidden=conv(3, 6), act=nn.ReLU(), last=conv(6, 2))).double()
    graph = trace(model, IMAGE.double())
    inputs = drawn(1)[0][0]
    batches = [(inputs, torch.randn(8, 2, 8, 8).double())]
    exact = Oracle(F.mse_loss).score(model, graph, batches)["hidden"]
    taylor = TaylorSecondOrder(F.mse_loss).score(model, graph, batches)["hidden"]
    assert exact.min() > 1e-9
    torch.testing.assert_close(taylor, exact)


@pytest.mark.parametrize("criterion", [TaylorSecondOrder(), Obd()])
def test_scores_are_means_over_minibatches(criterion: TaylorSecondOrder | Obd) -> None:
    model, batches = small(nn.Tanh), drawn(3)
    graph = trace(model, IMAGE.double())
    alone = [criterion.score(model, graph, [batch]) for batch in batches]
    together = criterion.score(model, graph, iter(batches))
    for name, scores in together.items():
        torch.testing.assert_close(scores, torch.stack([s[name] for s in alone]).mean(0))


def test_probes_estimate_the_diagonal_without_bias() -> None:
    """A probe's variance is the sum of the squares of the row's other entries."""
    model, batches, probes = small(nn.Tanh), drawn(1), 2000
    graph = trace(model, IMAGE.double())
    gates, _, hessian = explicit(model, graph, *batches[0])
    estimate = 2 * gates.joined(Obd(probes=probes).score(model, graph, batches))
    others = hessian - hessian.diagonal().diag()
    deviation = (others.square().sum(1) / probes).sqrt()
    errors = (estimate - hessian.diagonal()) / deviation
    assert errors.abs().max() < 4
    assert errors.square().mean() > 0.1
    assert (deviation < hessian.diagonal().abs() / 4).any()


def test_probes_follow_the_seed() -> None:
    model, batches = small(nn.ReLU), drawn(2)
    graph = trace(model, IMAGE.double())

    def scores(seed: int) -> Tensor:
        return TaylorSecondOrder(probes=2, seed=seed).score(model, graph, batches)["stem"]

    assert torch.equal(scores(1), scores(1))
    assert not torch.allclose(scores(1), scores(2))


def test_a_loss_that_is_linear_in_the_gates_has_no_curvature() -> None:
    model = chain(hidden=conv(3, 6), last=conv(6, 2))
    graph = trace(model, IMAGE)
    batches: Batches = [(torch.randn(2, 3, 8, 8), torch.zeros(2))]
    for probes in (None, 3):
        scores = Obd(lambda output, _: output.mean(), probes).score(model, graph, batches)
        assert torch.equal(scores["hidden"], torch.zeros(6))


def test_frozen_weights_and_a_caller_without_gradients_make_no_difference() -> None:
    model, batches = small(nn.ReLU), drawn(1)
    graph = trace(model, IMAGE.double())
    plain = Obd().score(model, graph, batches)["stem"]
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(Obd().score(model, graph, batches)["stem"], plain)


class Square(torch.autograd.Function):
    """x² with a derivative that torch cannot differentiate."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return 2 * gradient * values


def attention(tokens: Tensor) -> Tensor:
    """Of the classes with themselves, N×4 → N×4."""
    values = tokens[:, None, :, None].expand(-1, 1, -1, 2).contiguous()
    return F.scaled_dot_product_attention(values, values, values)[:, 0, :, 0]


def flash(tokens: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attention(tokens)


def test_fused_attention_is_differentiated_twice() -> None:
    model, batches = small(nn.Tanh), drawn(1)
    graph = trace(model, IMAGE.double())
    model.head.register_forward_hook(lambda *arguments: attention(arguments[-1]))
    with sdpa_kernel(SDPBackend.MATH):
        gates, _, hessian = explicit(model, graph, *batches[0])
    scores = gates.joined(Obd().score(model, graph, batches))
    torch.testing.assert_close(scores, hessian.diagonal() / 2)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [(Square.apply, "once_differentiable"), (flash, "flash_attention.* is not implemented")],
)
def test_an_operator_without_second_derivative_is_one_clear_error(
    operator: Callable[[Tensor], Tensor], reason: str
) -> None:
    model = small(nn.Identity)
    graph = trace(model, IMAGE.double())
    model.head.register_forward_hook(lambda *arguments: operator(arguments[-1]))
    with pytest.raises(CriterionError, match=f"twice .*{reason}.* a first-order criterion"):
        Obd().score(model, graph, drawn(1))


def test_other_errors_of_the_network_are_left_alone() -> None:
    model = small(nn.ReLU)
    graph = trace(model, IMAGE.double())
    with pytest.raises(RuntimeError, match="channels"):
        Obd().score(model, graph, [(torch.randn(2, 5, 8, 8).double(), torch.zeros(2).long())])


def test_a_loss_per_sample_or_without_end_is_refused() -> None:
    model = small(nn.ReLU)
    graph = trace(model, IMAGE.double())
    with pytest.raises(CriterionError, match=r"a scalar, got shape \(8,\)"):
        Obd(lambda output, _: output.mean(1)).score(model, graph, drawn(1))
    with pytest.raises(CriterionError, match="infinite or not a number"):
        Obd(lambda output, _: output.mean() ** 2 * torch.inf).score(model, graph, drawn(1))


def test_no_data_and_no_probes_are_one_clear_error() -> None:
    model = small(nn.ReLU)
    with pytest.raises(
        CriterionError, match="TaylorSecondOrder needs labelled data: pass batches="
    ):
        TaylorSecondOrder().score(model, trace(model, IMAGE.double()))
    with pytest.raises(CriterionError, match="at least 1, or None for all, got 0"):
        Obd(probes=0)
