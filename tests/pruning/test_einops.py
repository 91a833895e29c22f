"""Networks written in einops: which channels go, and that the smaller ones compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gating import difference, gated, random_plan
from networks import Branches, conv, randomised
from torch import Tensor, nn

from pruning import measure_cost, remove_channels, trace

einops: Any = pytest.importorskip("einops", reason="pip install '.[zoo]'")
layers: Any = pytest.importorskip("einops.layers.torch")
IMAGE = 1, 3, 8, 8


class Attention(nn.Module):
    """Heads by rearrange, scores and their products by einsum."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            einops.rearrange(part, "b n (h d) -> b h n d", h=self.heads)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        scores = torch.einsum("b h i d, b h j d -> b h i j", q, k).softmax(-1)
        attended = torch.einsum("b h i j, b h j d -> b h i d", scores, v)
        return self.out(einops.rearrange(attended, "b h n d -> b n (h d)"))


class Transformer(nn.Module):
    """Patches, a token repeated for each sample, positions, attention and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        patches = layers.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
        self.embed = nn.Sequential(patches, nn.Linear(12, 8), nn.LayerNorm(8))
        self.token, self.place = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(17, 8))
        self.attention = Attention(8, 2, 4)
        self.feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8))
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([einops.repeat(self.token, "d -> b 1 d", b=len(x)), self.embed(x)], 1)
        x = x + self.place
        x = x + self.attention(x)
        x = x + self.feed(x)
        return self.last(x[:, 0])


class LinearAttention(nn.Module):
    """Queries, keys and values of an image taken apart by their place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = conv(3, 6), conv(6, 24, 1), conv(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.qkv(self.first(x))
        q, k, v = einops.rearrange(x, "b (t h c) x y -> t b h c (x y)", t=3, h=2)
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
        x = torch.einsum("bhde,bhdn->bhen", context, q)
        return self.last(einops.rearrange(x, "b h c (x y) -> b (h c) x y", x=8))


class Mixer(nn.Module):
    """Mixes positions and channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        patches = layers.Rearrange("b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
        self.embed = nn.Sequential(patches, nn.Linear(12, 8))
        self.swap = layers.Rearrange("b n c -> b c n")
        self.positions = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.last = nn.Sequential(layers.Reduce("b n c -> b c", "mean"), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.swap(self.positions(self.swap(x)))
        return self.last(x + self.channels(x))


def rearranged(pattern: str, width: int, after: int, **sizes: int) -> Callable[[], nn.Module]:
    return lambda: Branches(
        lambda net, x: net.last(einops.rearrange(net.first(x), pattern, **sizes)),
        first=conv(3, width),
        last=conv(after, 4),
    )


def reduced(pattern: str, how: str) -> Callable[[], nn.Module]:
    return lambda: Branches(
        lambda net, x: net.last(einops.reduce(net.first(x), pattern, how, g=2)),
        first=conv(3, 8),
        last=conv(4, 4),
    )


def windows(net: Any, x: Tensor) -> Tensor:
    parts = einops.rearrange(net.first(x), "b c (h u) (w v) -> (b h w) (u v) c", u=4, v=4)
    pattern = "(b h w) (u v) c -> b c (h u) (w v)"
    return net.last(einops.rearrange(net.hidden(parts).relu(), pattern, h=2, w=2, u=4))


def squeezed(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    weights = net.up(net.down(einops.reduce(x, "b c h w -> b c", "mean")).relu()).sigmoid()
    return net.last(x * einops.rearrange(weights, "b c -> b c () ()"))


def packed(net: Any, x: Tensor) -> Tensor:
    parts = [einops.rearrange(net.first(x), "b c h w -> b (h w) c"), net.tokens(x.mean((2, 3)))]
    both, shapes = einops.pack([parts[0], parts[1][:, None]], "b * c")
    return net.last(einops.unpack(net.hidden(both), shapes, "b * c")[0].mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, int]]]] = {
    "a transformer": (Transformer, {"attention.qkv": (24, 6), "feed.1": (9, 1)}),
    "linear attention": (LinearAttention, {"first": (6, 1), "qkv": (24, 6)}),
    "a mixer": (Mixer, {"embed.1": (8, 1), "positions.0": (10, 1), "channels.0": (12, 1)}),
    "a shuffle": (rearranged("b (g c) h w -> b (c g) h w", 8, 8, g=2), {"first": (8, 2)}),
    "a pixel shuffle": (
        rearranged("b (c p q) h w -> b c (h p) (w q)", 16, 4, p=2, q=2),
        {"first": (16, 4)},
    ),
    "space to depth": (
        rearranged("b c (h p) (w q) -> b (c p q) h w", 6, 24, p=2, q=2),
        {"first": (6, 1)},
    ),
    "depth behind space": (
        rearranged("b c (h p) (w q) -> b (p q c) h w", 6, 24, p=2, q=2),
        {"first": (6, 1)},
    ),
    "sums of groups": (reduced("b (g c) h w -> b c h w", "sum"), {"first": (8, 2)}),
    "maxima of groups": (reduced("b (g c) h w -> b c h w", "max"), {"first": (8, 2)}),
    "repeated channels": (
        lambda: Branches(
            lambda net, x: net.last(einops.repeat(net.first(x), "b c h w -> b (c r) h w", r=2)),
            first=conv(3, 6),
            last=conv(12, 4),
        ),
        {"first": (6, 1)},
    ),
    "windows": (
        lambda: Branches(windows, first=conv(3, 6), hidden=nn.Linear(6, 9), last=conv(9, 4)),
        {"first": (6, 1), "hidden": (9, 1)},
    ),
    "squeeze and excitation": (
        lambda: Branches(
            squeezed,
            first=conv(3, 6),
            down=nn.Linear(6, 5),
            up=nn.Linear(5, 6),
            last=conv(6, 4),
        ),
        {"first": (6, 1), "down": (5, 1)},
    ),
    "packed tokens": (
        lambda: Branches(
            packed,
            first=conv(3, 6),
            tokens=nn.Linear(3, 6),
            hidden=nn.Linear(6, 7),
            last=nn.Linear(7, 4),
        ),
        {"first": (6, 1), "hidden": (7, 1)},
    ),
    "a mixing layer": (
        lambda: nn.Sequential(
            conv(3, 6),
            layers.EinMix("b c h w -> b o h w", weight_shape="c o", bias_shape="o", c=6, o=5),
            conv(5, 4),
        ),
        {"0": (6, 1), "1": (5, 1)},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_and_what_the_smaller_network_computes(name: str) -> None:
    make, prunable = NETWORKS[name]
    model = randomised(make()).double().eval()
    example = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0)).double()
    graph = trace(model, example)
    assert {g.name: (g.width, g.unit) for g in graph.prunable} == prunable
    assert graph.cost() == measure_cost(model, example)
    plan = random_plan(graph, seed=1)
    smaller = remove_channels(model, graph, plan)
    with torch.no_grad():
        assert difference(smaller(example), gated(model, graph, plan)(example)) < 1e-9
    assert graph.cost(plan.widths) == measure_cost(smaller, example)


@pytest.mark.parametrize(
    ("make", "group", "reason"),
    [
        (Transformer, "embed.1", "a layer normalisation runs over these channels"),
        (reduced("b (c g) h w -> b c h w", "max"), "first", "reduced over all channels"),
    ],
)
def test_what_only_changes_values_goes_inexactly(
    make: Callable[[], nn.Module], group: str, reason: str
) -> None:
    model, example = make().eval(), torch.randn(IMAGE)
    assert reason in str(trace(model, example).group(group).pinned)
    graph = trace(model, example, exact=False)
    assert graph.group(group).pinned is None
    smaller = remove_channels(model, graph, random_plan(graph, seed=1))
    assert smaller(example).shape == model(example).shape
