"""The whole of pruning on torchvision's networks: exact outputs, exact costs, nothing pinned."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from gating import difference, gated, random_plan
from networks import randomised
from torch import Tensor, nn

from pruning import ChannelGraph, measure_cost, remove_channels
from pruning.tracing import whole_trace

NETWORKS = {
    "resnet18": 32,
    "mobilenet_v2": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 48,
    "efficientnet_b0": 32,
    "densenet121": 32,
}
"""Name and image size."""

every_network = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "densenet121" else n for n in NETWORKS],
)


@functools.cache
def network(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    return randomised(model).eval()


@functools.cache
def graph_of(name: str) -> ChannelGraph:
    return whole_trace(network(name), images(name))


def images(name: str, seed: int = 0) -> Tensor:
    size = NETWORKS[name]
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@every_network
def test_only_the_logits_are_pinned(name: str) -> None:
    pinned = [group for group in graph_of(name).groups if group.pinned]
    assert [group.pinned for group in pinned] == ["the network's output"]
    assert pinned[0].width == 10


@every_network
def test_costs_and_outputs_of_smaller_networks(name: str) -> None:
    model, graph = network(name), graph_of(name)
    assert graph.cost() == measure_cost(model, images(name))
    plan = random_plan(graph, seed=1)
    smaller = remove_channels(model, graph, plan)
    assert graph.cost(plan.widths) == measure_cost(smaller, images(name))
    reference = gated(model, graph, plan).double()
    smaller.double()
    outputs = [smaller(images(name, seed).double()) for seed in (1, 2)]
    assert difference(outputs[0], reference(images(name, 1).double())) < 1e-10
    assert difference(*outputs) > 1e-5  # deep networks of random statistics hardly see the image


def test_a_traced_width_is_no_limit() -> None:
    """Twice as wide everywhere costs what the twice as wide network of torchvision costs."""
    graph = graph_of("mobilenet_v2")
    wider = torchvision.models.mobilenet_v2(weights=None, num_classes=10, width_mult=2.0)
    wide = whole_trace(wider, images("mobilenet_v2"))
    assert list(wide.widths) == list(graph.widths)
    assert graph.cost(wide.widths) == measure_cost(wider, images("mobilenet_v2"))
