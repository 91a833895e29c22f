"""Networks of timm: found by name, traced, pruned, stored and loaded; without any download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from copycat import Architecture, WidthProfile, build, load, save, verify
from pruning import Budget, least_widths, measure_cost
from pruning.errors import ModelError
from pruning.tracing import trace
from search import models

pytest.importorskip("timm")

NETWORKS = (
    "resnet10t",
    "resnet18",
    "efficientnet_lite0",
    "efficientnet_b0",
    "convnext_atto",
    "mobilenetv3_small_050",
    "mobilenetv3_large_075",
)
"""The smallest of each family that a search is asked to work on, and some that are built alike."""

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_pruned_stored_and_loaded(name: str, tmp_path: Path) -> None:
    builder = models.resolve(f"timm:{name}", num_classes=4, in_channels=3)
    torch.manual_seed(0)
    network = builder()
    graph = trace(network, IMAGE)
    assert measure_cost(network, IMAGE) == graph.cost()
    names = [group.name for group in graph.prunable]
    half = {n: graph.group(n).unit * max(1, graph.group(n).num_units // 2) for n in names}
    widths = {n: max(width, graph.group(n).least_width) for n, width in half.items()}
    smaller = build(network, WidthProfile(widths), IMAGE, graph=graph)
    assert graph.cost(widths).params < 0.6 * graph.cost().params
    assert smaller.eval()(IMAGE).shape == (1, 4)
    floor = graph.cost(least_widths(graph, names))
    assert Budget.parse("flops=50%").absolute(graph.cost()).allows(floor)

    architecture = Architecture(
        builder, WidthProfile(widths), (3, 32, 32), tuple("abcd"), graph.cost(widths)
    )
    save(tmp_path / "net", architecture, smaller)
    assert verify(tmp_path / "net", graph=graph)
    loaded = load(tmp_path / "net", graph=graph)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(image), smaller.eval()(image))


def test_channels_are_those_of_the_data_and_arguments_are_passed_on() -> None:
    own = {"drop_rate": 0.25}
    network = models.resolve("timm:resnet10t", num_classes=5, in_channels=1, own=own)()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert network.drop_rate == 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1O", r"timm has no network 'resnet1O'; did you mean timm:resnet1"),
        ("timm:zzzzzzzz", r"timm has no network 'zzzzzzzz'; see timm\.list_models\(\)"),
    ],
)
def test_unknown_names_get_the_nearest_ones(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.resolve(name, num_classes=5, in_channels=3)
