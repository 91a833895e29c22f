"""Products of activations of which several axes carry the same channels: one is gated, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gating import difference, random_plan
from networks import Branches, conv, randomised
from torch import Tensor

from pruning import remove_channels, trace
from pruning.gates.channel_gates import ChannelGates

IMAGE = 1, 3, 4, 4
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda pairs, x: pairs @ x,
    "matmul, transposed": lambda pairs, x: pairs.transpose(1, 2) @ x,
    "bmm": torch.bmm,
    "einsum over the last": lambda pairs, x: torch.einsum("bij,bjn->bin", pairs, x),
    "einsum over the first": lambda pairs, x: torch.einsum("bij,bin->bjn", pairs, x),
    "baddbmm": lambda pairs, x: torch.baddbmm(x, pairs, x),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_gate_of_zero_is_a_removed_channel(name: str) -> None:
    """Similarities of channels with each other, by which their values are mixed."""

    def mixed(net: Branches, x: Tensor) -> Tensor:
        y, z = net.first(x).flatten(2), net.second(x).flatten(2)
        pairs = 0.1 * z @ y.transpose(1, 2)
        return net.last(PRODUCTS[name](pairs, y + z).unflatten(2, (4, 4)))

    model = Branches(mixed, first=conv(3, 6), second=conv(3, 6), last=conv(6, 4))
    model = randomised(model).double().eval()
    example = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)).double()
    graph = trace(model, example)
    assert [group.name for group in graph.prunable] == ["first"]
    gates, plan = ChannelGates(model, graph), random_plan(graph, seed=3)
    with gates.multiplying(gates.mask(plan)):
        gated = model(example)
    assert difference(gated, remove_channels(model, graph, plan)(example)) < 1e-9
