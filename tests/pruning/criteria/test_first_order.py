"""First-order criteria against the equations of their papers."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import BY_NAME
from networks import chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import ChannelGraph, trace
from pruning.criteria import (
    FirstOrderCriterion,
    Fisher,
    Snip,
    Taylor,
    TaylorBatchNormScale,
    TaylorFullGradient,
    TaylorOutput,
    TaylorWeights,
    score_together,
)
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates

IMAGE = torch.zeros(1, 3, 8, 8)
SHORTCUT = BY_NAME["identity shortcut"]


def data(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 4, (size,), generator=generator),
        )
        for size in sizes
    ]


def gate_gradient(model: nn.Module, graph: ChannelGraph, images: Tensor, labels: Tensor) -> Tensor:
    """∂E/∂z of the mean loss, by differentiating a network with gates in it; shape (U,)."""
    gates = ChannelGates(model, graph)
    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    with gates.multiplying(ones):
        loss = F.cross_entropy(model(images), labels)
    return torch.autograd.grad(loss, ones)[0]


def units_of(scores: dict[str, Tensor]) -> Tensor:
    """Of groups whose units are single channels: shape (U,)."""
    return torch.cat(list(scores.values()))


def test_taylor_behind_a_batch_norm_is_that_of_its_scale_and_offset() -> None:
    model = BY_NAME["chain"].network(1, torch.float64)
    batches = data(5, 3)
    expected = {"bn1": torch.zeros(6).double(), "bn2": torch.zeros(5).double()}
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for name, total in expected.items():
            layer = getattr(model, name)
            joint = layer.weight * layer.weight.grad + layer.bias * layer.bias.grad
            total.add_(joint.detach() ** 2)
    scores = Taylor().score(model, trace(model, IMAGE.double()), batches)
    torch.testing.assert_close(scores["conv1"], expected["bn1"] / 2)
    torch.testing.assert_close(scores["conv2"], expected["bn2"] / 2)


def test_a_gate_is_the_group_contribution_of_the_weights_before_it() -> None:
    """Molchanov et al., eq. 9, and eq. 8 beside it."""
    model = randomised(chain(first=conv(3, 6), relu=nn.ReLU(), head=head(6))).double()
    ((images, labels),) = data(4)
    graph = trace(model, images[:1])
    F.cross_entropy(model(images), labels).backward()
    weight, bias = model.first.weight, model.first.bias
    products = torch.cat(
        [(weight * weight.grad).flatten(1), (bias * bias.grad)[:, None]], dim=1
    ).detach()
    scores = score_together(
        {"gate": Taylor(), "weights": TaylorWeights()}, model, graph, [(images, labels)]
    )
    torch.testing.assert_close(scores["gate"]["first"], products.sum(1) ** 2)
    torch.testing.assert_close(scores["weights"]["first"], (products**2).sum(1))


def test_coupled_producers_add_up_on_weights() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    batches = data(4, 3)
    expected = torch.zeros(6).double()
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for layer in (model.stem, model.b):
            for p in (layer.weight, layer.bias):
                expected += (p * p.grad).detach().square().reshape(6, -1).sum(1)
    scores = TaylorWeights().score(model, graph, batches)
    torch.testing.assert_close(scores["stem"], expected / 2)


def test_before_batch_norm_it_is_the_group_contribution_of_filters() -> None:
    """Molchanov et al., eq. 9, of a gate right behind a convolution."""
    model = BY_NAME["chain"].network(1, torch.float64)
    batches = data(5, 3)
    expected = torch.zeros(6).double()
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        expected += contributions(model.conv1).sum(1) ** 2
    criterion = Taylor().placed(at="convolution")
    scores = criterion.score(model, trace(model, IMAGE.double()), batches)
    torch.testing.assert_close(scores["conv1"], expected / 2)
    behind = Taylor().score(model, trace(model, IMAGE.double()), batches)
    assert not torch.allclose(scores["conv1"], behind["conv1"], rtol=0.1)


def contributions(layer: nn.Conv2d) -> Tensor:
    """g_s·w_s of a layer's filters and biases, a row per filter."""
    parts = [(layer.weight * layer.weight.grad).flatten(1)]
    if layer.bias is not None:
        parts.append((layer.bias * layer.bias.grad)[:, None])
    return torch.cat(parts, 1).detach()


def test_convolutions_of_a_stream_have_gates_of_their_own() -> None:
    """Each squared by itself, or together as one, whose gradient is their sum."""
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    batches = data(4, 3)
    own, shared = torch.zeros(6).double(), torch.zeros(6).double()
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        stem, other = (contributions(layer).sum(1) for layer in (model.stem, model.b))
        own += stem**2 + other**2
        shared += (stem + other) ** 2
    per, together = Taylor().placed(per="convolution"), Taylor().placed("convolution")
    torch.testing.assert_close(per.score(model, graph, batches)["stem"], own / 2)
    gates = per.gates(model, graph)
    apart = gates.by_layer(per.judge(gates, batches))
    torch.testing.assert_close(apart["stem"] + apart["b"], own / 2)
    torch.testing.assert_close(together.score(model, graph, batches)["stem"], shared / 2)


def without_batchnorm() -> tuple[nn.Module, ChannelGraph]:
    model = randomised(chain(first=conv(3, 6), relu=nn.ReLU(), head=head(6))).double()
    return model, trace(model, IMAGE.double())


def test_before_batch_norm_means_nothing_where_there_is_none() -> None:
    model, graph = without_batchnorm()
    before = Taylor().placed("convolution")
    assert before.covers(model, graph) == ()
    with pytest.raises(CriterionError, match="no prunable channels behind which batch norm"):
        before.score(model, graph, data(2))


def test_full_gradients_reach_gates_on_outputs() -> None:
    """One per sample, as if each were a minibatch of its own."""
    model, graph = BY_NAME["chain"].network(1, torch.float64), BY_NAME["chain"].graph
    ((images, labels),) = data(4)
    criterion = TaylorFullGradient().placed("convolution")
    alone = [
        Taylor().placed("convolution").score(model, graph, [(images[[n]], labels[[n]])])
        for n in range(4)
    ]
    for name, values in criterion.score(model, graph, [(images, labels)]).items():
        torch.testing.assert_close(values, torch.stack([one[name] for one in alone]).mean(0))


def test_outputs_are_judged_by_absolute_gradients_per_layer() -> None:
    """Molchanov et al. (2017), eq. 8: |mean over positions of activation · gradient|."""
    model = randomised(chain(first=conv(3, 6), relu=nn.ReLU(), head=head(6))).double()
    ((images, labels),) = data(4)
    activation = F.relu(model.first(images)).detach().requires_grad_()
    loss = F.cross_entropy(model.head(activation), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, activation)
    raw = (activation * gradient).mean((2, 3)).abs().mean(0).detach()
    scores = TaylorOutput().score(model, trace(model, images[:1]), [(images, labels)])
    torch.testing.assert_close(scores["first"], raw / raw.square().sum().sqrt())


def test_taylor_on_scales_of_batch_norm() -> None:
    model, graph = BY_NAME["chain"].network(1, torch.float64), BY_NAME["chain"].graph
    batches = data(5, 3)
    expected = torch.zeros(6).double()
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        expected += (model.bn1.weight * model.bn1.weight.grad).detach() ** 2
    scores = TaylorBatchNormScale().score(model, graph, batches)
    torch.testing.assert_close(scores["conv1"], expected / 2)
    with pytest.raises(CriterionError, match="no batch normalisation with a scale"):
        TaylorBatchNormScale().score(*without_batchnorm(), batches)


def test_several_placements_share_one_pass() -> None:
    model, graph = BY_NAME["chain"].network(1, torch.float64), BY_NAME["chain"].graph
    criteria = {"behind": Taylor(), "before": Taylor().placed("convolution")}
    together = score_together(criteria, model, graph, iter(data(3, 2)))
    for name, criterion in criteria.items():
        alone = criterion.score(model, graph, data(3, 2))
        for group, values in alone.items():
            torch.testing.assert_close(together[name][group], values)


def test_fisher_is_half_the_mean_squared_gradient_per_sample() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    batches = data(5, 2)
    squares = torch.stack(
        [
            gate_gradient(model, graph, images[[n]], labels[[n]]) ** 2
            for images, labels in batches
            for n in range(len(images))
        ]
    )
    together = score_together(
        {"fisher": Fisher(), "full": TaylorFullGradient()}, model, graph, batches
    )
    torch.testing.assert_close(units_of(together["fisher"]), squares.mean(0) / 2)
    torch.testing.assert_close(units_of(together["full"]), squares.mean(0))


def test_fisher_takes_off_the_flops_that_removal_saves() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    batches, base = data(4), graph.cost().flops
    plain, penalised = (
        Fisher().score(model, graph, batches),
        Fisher(1e-5).score(model, graph, batches),
    )
    saved = {
        group.name: base - graph.cost({group.name: group.width - 1}).flops
        for group in graph.prunable
    }
    assert len(set(saved.values())) == len(saved)
    for name, flops in saved.items():
        torch.testing.assert_close(penalised[name], plain[name] - 1e-5 * flops)


def test_snip_is_the_share_of_the_gradient_over_all_the_data() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    batches = data(5, 2)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    gradient = gate_gradient(model, graph, images, labels).abs()
    scores = units_of(Snip().score(model, graph, batches))
    torch.testing.assert_close(scores, gradient / gradient.sum())


def test_snip_of_a_network_without_any_gradient_is_zero() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    model.head.fc.weight.data.zero_()
    assert (units_of(Snip().score(model, graph, data(2))) == 0).all()


def test_one_pass_gives_all_first_order_criteria() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    criteria: dict[str, FirstOrderCriterion] = {
        "taylor": Taylor(),
        "weights": TaylorWeights(),
        "full": TaylorFullGradient(),
        "fisher": Fisher(1e-6),
        "snip": Snip(),
    }
    passes = {"forward": 0, "backward": 0}

    def count(kind: str) -> None:
        passes[kind] += 1

    counted = copy.deepcopy(model)
    counted.head.register_forward_hook(lambda *_: count("forward"))
    counted.head.register_full_backward_hook(lambda *_: count("backward"))
    together = score_together(criteria, counted, graph, iter(data(3, 2)))
    assert passes == {"forward": 2, "backward": 2}
    for name, criterion in criteria.items():
        alone = criterion.score(model, graph, data(3, 2))
        assert all(torch.equal(together[name][group], alone[group]) for group in alone)


def test_frozen_layers_are_scored_as_if_they_were_not() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    free = Taylor().score(model, graph, data(3))
    with torch.no_grad():
        frozen = Taylor().score(model.requires_grad_(False), graph, data(3))
    assert all(torch.equal(free[name], frozen[name]) for name in free)


def test_bad_arguments_are_one_clear_error_each() -> None:
    model, graph = SHORTCUT.network(0, torch.float64), SHORTCUT.graph
    for penalty in (-1.0, float("nan"), float("inf")):
        with pytest.raises(CriterionError, match="flops_penalty must be finite"):
            Fisher(penalty)
    different = {"a": Taylor(), "b": Taylor(nn.MSELoss())}
    with pytest.raises(CriterionError, match="one pass has one loss, but a, b have 2"):
        score_together(different, model, graph, data(2))
    with pytest.raises(CriterionError, match=r"must be the mean .* got shape \(2,\)"):
        Taylor(lambda x, y: F.cross_entropy(x, y, reduction="none")).score(model, graph, data(2))
    ((images, labels),) = data(2)
    with pytest.raises(CriterionError, match="infinite or not a number"):
        Taylor().score(model, graph, [(images * float("nan"), labels)])
    with pytest.raises(CriterionError, match="batch 0 has no sample"):
        Taylor().score(model, graph, [(images[:0], labels[:0])])
    used_up = iter(data(2))
    Taylor().score(model, graph, used_up)
    with pytest.raises(CriterionError, match="an iterator can be used up"):
        Taylor().score(model, graph, used_up)
