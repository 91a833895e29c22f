"""Gates on every network of the collection: zero is removal, and probes see ∂E/∂z."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from gating import difference, random_plan, tensors_of
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import remove_channels, trace
from pruning.errors import CriterionError
from pruning.gates import ChannelGates, Gated

GATED = [architecture for architecture in ARCHITECTURES if architecture.graph.prunable]


def call(network: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def energy(output: Any) -> Tensor:
    return torch.stack([(tensor**2).sum() for tensor in tensors_of(output)]).sum()


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_a_gate_of_zero_is_a_removed_channel(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, plan = architecture.example(1, torch.float64), random_plan(graph, 3)
    gated = Gated(ChannelGates(model, graph)).double()
    whole = call(model, inputs)
    assert difference(call(gated, inputs), whole) == 0
    gated.mask.copy_(gated.gates.mask(plan))
    removed = call(remove_channels(model, graph, plan), inputs)
    assert difference(call(gated, inputs), removed) < 1e-9


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_probes_see_the_gradient_of_the_gates(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, gates = architecture.example(1, torch.float64), ChannelGates(model, graph)
    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    with gates.multiplying(ones):
        energy(call(model, inputs)).backward()
    with gates.probing(1) as probe:
        energy(call(model, inputs)).backward()
    assert ones.grad is not None
    assert ones.grad.abs().max() > 0
    torch.testing.assert_close(probe.gradients.sum(0), ones.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_a_probe_outside_of_a_mask_sees_the_masked_network(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, gates = architecture.example(1, torch.float64), ChannelGates(model, graph)
    gated = Gated(gates).double()
    gated.mask.copy_(gates.mask(random_plan(graph, 3)))
    values = gated.mask.clone().requires_grad_()
    with gates.multiplying(values):
        energy(call(model, inputs)).backward()
    with gates.probing(1) as probe:
        energy(call(gated, inputs)).backward()
    assert values.grad is not None
    torch.testing.assert_close(
        probe.gradients.sum(0), values.grad * gated.mask, rtol=1e-8, atol=1e-9
    )


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    ).double()


def test_gradients_per_sample_are_those_of_each_sample_alone() -> None:
    model = small().eval()
    images, labels = torch.randn(7, 3, 6, 6).double(), torch.randint(0, 5, (7,))
    gates = ChannelGates(model, trace(model, images[:1]))
    with gates.probing(7) as probe:
        F.cross_entropy(model(images), labels, reduction="sum").backward()
    for number in range(7):
        with gates.probing(1) as alone:
            F.cross_entropy(model(images[[number]]), labels[[number]]).backward()
        torch.testing.assert_close(probe.gradients[number], alone.gradients[0])


def test_gates_per_sample_gate_each_sample_alone() -> None:
    model = small().eval()
    images = torch.randn(3, 3, 6, 6).double()
    gates = ChannelGates(model, trace(model, images[:1]))
    values = torch.rand(3, gates.num_units).double()
    with gates.multiplying(values):
        together = model(images)
    for number in range(3):
        with gates.multiplying(values[number]):
            torch.testing.assert_close(together[[number]], model(images[[number]]))


def test_a_probe_changes_neither_output_nor_gradients() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 6, 6).double()
    model(images).sum().backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    gates = ChannelGates(model, trace(model, images[:1]))
    with gates.probing(2):
        output = model(images)
        output.sum().backward()
    assert torch.equal(output, model(images))
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))


def test_gradients_may_be_asked_for_while_gates_are_on() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 6, 6).double()
    gates, parameters = ChannelGates(model, trace(model, images[:1])), list(model.parameters())
    expected = torch.autograd.grad(model(images).sum(), parameters)
    with gates.probing(2):
        found = torch.autograd.grad(model(images).sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_second_derivatives_flow_to_the_gates() -> None:
    model = small().eval()
    images, labels = torch.randn(4, 3, 6, 6).double(), torch.randint(0, 5, (4,))
    gates = ChannelGates(model, trace(model, images[:1]))

    def loss(values: Tensor) -> Tensor:
        with gates.multiplying(values):
            return F.cross_entropy(model(images), labels)

    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(loss, (ones,))


def test_some_groups_are_gated_and_vectors_fall_apart_by_group() -> None:
    model = small().float()
    graph = trace(model, torch.randn(1, 3, 6, 6))
    gates = ChannelGates(model, graph, ["3", "0"])
    assert gates.names == ("0", "3")
    values = torch.arange(gates.num_units).float()
    assert torch.equal(gates.joined(gates.by_group(values)), values)
    channels = gates.by_channel(values)
    assert {name: len(tensor) for name, tensor in channels.items()} == {"0": 4, "3": 6}
    assert ChannelGates(model, graph, ["3"]).num_units < gates.num_units


def test_nothing_to_gate_is_one_clear_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    graph = trace(model, torch.randn(1, 3, 2, 2))
    with pytest.raises(CriterionError, match="nothing to gate"):
        ChannelGates(model, graph)
    with pytest.raises(CriterionError, match="pinned: the network's output"):
        ChannelGates(model, graph, ["0"])


def test_another_network_is_refused() -> None:
    model = small().float()
    gates = ChannelGates(nn.Linear(3, 3), trace(model, torch.randn(1, 3, 6, 6)))
    with pytest.raises(CriterionError, match=r"no parameter '3.weight'"), gates.probing(1):
        pass
