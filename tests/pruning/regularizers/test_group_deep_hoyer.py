"""DeepHoyer on filters: one norm per output channel of each layer."""

from __future__ import annotations

import pytest
import torch
from networks import Branches, chain, conv, head
from torch import Tensor, nn

from pruning import trace
from pruning.regularizers import GroupDeepHoyer

IMAGE = torch.zeros(1, 3, 8, 8)


def with_norms(layer: nn.Module, *norms: float, axis: int = 0) -> nn.Module:
    """`layer` with random filters of these norms along an axis of its weight."""
    weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    others = [other for other in range(weight.dim()) if other != axis]
    shape = [-1 if other == axis else 1 for other in range(weight.dim())]
    unit = weight / torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    with torch.no_grad():
        layer.weight.copy_(unit * torch.tensor(norms).reshape(shape))
        if layer.bias is not None:
            layer.bias.fill_(100)
    return layer


def value(model: nn.Module, strength: float = 1.0) -> float:
    return GroupDeepHoyer(strength)(model).item()


@pytest.mark.parametrize(
    "layer",
    [nn.Conv1d(4, 2, 3), nn.Conv2d(4, 2, 3), nn.Conv3d(4, 2, 3), nn.Conv2d(4, 2, 3, groups=2)],
    ids=str,
)
def test_convolutions_by_hand(layer: nn.Module) -> None:
    """(1 + 3)² / 10, without the bias."""
    assert value(with_norms(layer, 1, 3), 0.5) == pytest.approx(0.8, rel=1e-6)


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_filters_of_transposed_convolutions_lie_along_their_second_axis(
    kind: type[nn.Module],
) -> None:
    layer = kind(4, 2, 3)
    assert value(with_norms(layer, 1, 3, axis=1)) == pytest.approx(1.6, rel=1e-6)


def test_layers_are_measured_one_by_one() -> None:
    model = nn.Sequential(
        with_norms(nn.Conv2d(3, 2, 1), 1, 3), with_norms(nn.Conv2d(2, 3, 1), 5, 0, 0)
    )
    assert value(model) == pytest.approx(1.6 + 1, rel=1e-6)


def test_linear_layers_count_only_where_a_graph_lets_them_be_pruned() -> None:
    """Without a graph nobody knows which of them gives the classes."""
    model = chain(
        conv=with_norms(conv(3, 2), 1, 3),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        hidden=with_norms(nn.Linear(2, 3), 5, 5, 5),
        relu=nn.ReLU(),
        classes=with_norms(nn.Linear(3, 4), 1, 2, 3, 4),
    )
    assert value(model) == pytest.approx(1.6, rel=1e-6)
    with_graph = GroupDeepHoyer(1.0, graph=trace(model, IMAGE))
    assert with_graph(model).item() == pytest.approx(1.6 + 3, rel=1e-6)


def test_coupled_filters_have_a_norm_in_each_of_their_layers() -> None:
    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(x + net.branch(x))

    model = Branches(
        wiring,
        stem=with_norms(conv(3, 2), 1, 3),
        branch=with_norms(conv(2, 2), 4, 4),
        head=head(2),
    )
    graph = trace(model, IMAGE).pruning(["stem"])
    assert [group.producers for group in graph.prunable] == [("stem", "branch")]
    regularizer = GroupDeepHoyer(1.0, graph=graph)
    assert regularizer(model).item() == pytest.approx(1.6 + 2, rel=1e-6)


def test_a_filter_of_zeros_has_a_gradient_of_zeros() -> None:
    layer = with_norms(nn.Conv2d(2, 2, 3), 0, 3)
    (found,) = torch.autograd.grad(GroupDeepHoyer(1.0)(layer), [layer.weight])
    assert found.isfinite().all()
    assert not found[0].any()


def test_norms_of_half_precision_are_taken_in_single() -> None:
    """Two filters of norm 64 · 3000, which no half can hold."""
    layer = nn.Conv2d(64, 2, 8).to(torch.float16)
    with torch.no_grad():
        layer.weight.fill_(3000)
    assert value(layer) == pytest.approx(2)
