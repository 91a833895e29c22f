"""Small networks with the habits of others: detectors, generators, transformers."""

from __future__ import annotations

import numpy as np
import torch
from architecture import WRITTEN, Architecture
from networks import Branches, between, chain, conv
from torch import Tensor, nn
from torch.nn import functional as F


class CachingHead(nn.Module):
    """Keeps positions and the shape that they are for on itself, as YOLO's heads do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = conv(width, 4, 1)
        self.shape: torch.Size | None = None
        self.num_runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_runs += 1
        if self.shape != x.shape:
            self.shape = x.shape
            steps = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
            self.positions = steps * 2 + 0.5
            strides = torch.full((1,), 8.0, device=x.device)
            self.register_buffer("strides", strides, persistent=False)
        return self.score(x) + self.positions * self.strides


def halves_by_layer(net: nn.Module, x: Tensor) -> Tensor:
    """Splits at sizes read from layers, of which one is narrower."""
    both = net.enter(x)
    left, right = both.split([net.left.in_channels, net.right.in_channels], dim=1)
    return net.last(torch.cat([net.left(left), net.right(right)], 1))


def generated(net: nn.Module, x: Tensor) -> Tensor:
    """Features that become an image, of as many channels as the next layer reads."""
    seed = net.enter(x).view(-1, net.up.in_channels, 2, 2)
    return net.last(F.relu(net.up(seed)))


def shuffled_up(net: nn.Module, x: Tensor) -> Tensor:
    """A pixel shuffle written out, with sizes that are read from tensors."""
    y = net.first(x)
    n, c, h, w = y.shape
    y = y.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
    return net.last(y)


def numbers_made_twice(net: nn.Module, x: Tensor) -> Tensor:
    """They are handed to another library, which takes no meta tensors: all runs are real ones."""
    numbers = torch.arange(8) + torch.arange(8)
    np.from_dlpack(numbers)
    return net.last(net.first(x) * numbers)


class OnlyInTraining(nn.Module):
    """Scales by a buffer and a parameter per channel in training, and does nothing otherwise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, width).view(width, 1, 1))
        self.offset = nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset[:, None, None] if self.training else x


class ReshapedInTraining(nn.Module):
    """Writes a size down that only matters in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 6, 64).flip(-1).view_as(x) if self.training else x


def heads_by_size(net: nn.Module, x: Tensor) -> Tensor:
    """Attention with as many heads as its layers are wide for."""
    tokens = net.embed(x).flatten(2).transpose(1, 2).contiguous()
    q, k, v = (
        layer(tokens).view(*tokens.shape[:2], -1, 2).transpose(1, 2)
        for layer in (net.query, net.key, net.value)
    )
    attended = (q @ k.transpose(-1, -2) * 0.7).softmax(-1) @ v
    return net.last(attended.transpose(1, 2).flatten(2).mean(1))


class Scales(nn.Module):
    """Splits by a width that it keeps, and adds every part to the next one's input (Res2Net)."""

    def __init__(self, width: int, number: int) -> None:
        super().__init__()
        self.width = width
        for place in range(1, number):
            self.add_module(f"layer{place}", conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = x.split(self.width, 1)
        parts = [first]
        for layer, other in zip(self.children(), others, strict=True):
            parts.append(layer(parts[-1] + other))
        return torch.cat(parts, 1)


class Stages(nn.Module):
    """Passes some of its channels by, and convolves the others (CSP)."""

    def __init__(self, passed: int, convolved: int) -> None:
        super().__init__()
        self.sizes = [passed, convolved]
        self.layer = conv(convolved, convolved)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, self.sizes, 1)
        return torch.cat([left, self.layer(right)], 1)


class Image(nn.Module):
    """Rows of features as an image again, whose sizes it keeps."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.height, self.width, self.channels = height, width, channels

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        image = rows.reshape(len(x), self.height, self.width, self.channels)
        return image.permute(0, 3, 1, 2)


class KeptHeads(nn.Module):
    """Attention whose numbers are worked out when it is made."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width, self.head_width = heads, width, width // heads
        self.scale = self.head_width**-0.5
        self.qkv = nn.Linear(inputs, 3 * width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).contiguous()
        n, positions = x.shape[:2]
        parts = self.qkv(x).reshape(n, positions, 3, self.heads, self.head_width)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        joined = attended.transpose(1, 2).reshape(n, positions, self.width).contiguous()
        return self.last(joined).mean(1)


class SeparateHeads(nn.Module):
    """Attention by three layers, each shared out into heads of a width that is kept (Next-ViT)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).contiguous()
        n, positions = x.shape[:2]
        q = self.query(x).reshape(n, positions, self.heads, self.head_width).transpose(1, 2)
        k = self.key(x).reshape(n, -1, self.heads, self.head_width).transpose(1, 2)
        v = self.value(x).reshape(n, -1, self.heads, self.head_width).transpose(1, 2)
        attended = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.last(attended.transpose(1, 2).flatten(2).contiguous()).mean(1)


class TripledHeads(nn.Module):
    """Attention whose queries, keys and values lie together in every head (MaxViT)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = width // head_width, head_width
        self.qkv = nn.Linear(5, 3 * width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).contiguous()
        parts = self.qkv(x).view(len(x), -1, self.heads, self.head_width * 3).transpose(1, 2)
        q, k, v = parts.chunk(3, dim=3)
        attended = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.last(attended.transpose(1, 2).flatten(2).contiguous()).mean(1)


class LinearAttention(nn.Module):
    """Attention over an image whose queries, keys and values are taken apart by their place."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.last = nn.Conv2d(5, 3 * width, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        parts = self.qkv(x)
        parts = parts.reshape(n, 3, self.heads, parts.shape[1] // (3 * self.heads), height, width)
        q, k, v = parts.permute(1, 0, 2, 3, 4, 5).reshape(
            *parts.shape[1:2], n, *parts.shape[2:4], -1
        )
        attended = (v @ k.softmax(-1).transpose(-1, -2)) @ q
        return self.last(attended.reshape(n, -1, height, width))


class Condensed(nn.Module):
    """A learned choice of channels, and grouped convolutions of it (CondenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor([0, 3, 5, 2, 1, 1, 2, 4]))
        self.first, self.norm = nn.Conv2d(8, 16, 1, groups=4), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(torch.index_select(x, 1, self.index)).relu()
        y = self.norm(y).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return torch.cat([x, self.second(y)], 1)


class Scan(nn.Module):
    """A state per channel, zero at first, that goes from one position to the next (Mamba)."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.enter, self.read = nn.Linear(5, 2 * width), nn.Linear(width, 2 * states)
        self.rates, self.states = nn.Parameter(torch.rand(width, states)), states

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.enter(x).chunk(2, -1)
        written, read = self.read(x).chunk(2, -1)
        state = x.new_zeros(len(x), x.shape[-1], self.states)
        outputs = []
        for place in range(x.shape[1]):
            state = state * (-self.rates.exp()).exp()
            state = state + x[:, place, :, None] * written[:, place, None]
            outputs.append((state @ read[:, place, :, None]).squeeze(-1))
        return torch.stack(outputs, 1) * gate.sigmoid()


class EqualSections(nn.Module):
    """Two kinds of normalisation, each for half of the channels, of sizes that it keeps (IBN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sections = [width // 2, width // 2]
        self.instance, self.batch = nn.InstanceNorm2d(width // 2), nn.BatchNorm2d(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.split(self.sections, 1)
        return torch.cat([self.instance(left), self.batch(right)], 1)


ZOO_ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "caches on itself",
        lambda: chain(stem=conv(3, 6), relu=nn.ReLU(), head=CachingHead(6)),
        prunable={"stem": (6, 1)},
    ),
    Architecture(
        "numbers read from tensors",
        lambda: Branches(
            lambda net, x: (
                net.last(net.first(x) * (2.0 if bool((x > -9).all()) else 1.0))
                + torch.tensor([0.1, 0.2]).tolist()[1]
            ),
            first=conv(3, 6),
            last=conv(6, 4),
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "split at sizes read from layers",
        lambda: Branches(
            halves_by_layer, enter=conv(3, 9), left=conv(7, 5), right=conv(2, 6), last=conv(11, 4)
        ),
        prunable={"enter": (7, 1), "enter.1": (2, 1), "left": (5, 1), "right": (6, 1)},
    ),
    Architecture(
        "split at a width that a module keeps",
        lambda: chain(first=conv(3, 12), scales=Scales(4, 3), last=conv(12, 4)),
        prunable={"first": (12, 3), "scales.layer2": (4, 1)},
        residual=frozenset({"first"}),
    ),
    Architecture(
        "split at several widths that a module keeps",
        lambda: chain(first=conv(3, 9), stages=Stages(3, 6), last=conv(9, 4)),
        prunable={"first": (3, 1), "first.1": (6, 1), "stages.layer": (6, 1)},
    ),
    Architecture(
        "reshaped to sizes that a module keeps",
        lambda: chain(first=conv(3, 6), image=Image(8, 8, 6), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "unflattened to written sizes",
        lambda: chain(features=nn.Linear(9, 20), image=nn.Unflatten(1, (5, 2, 2)), last=conv(5, 4)),
        shapes=((1, 9),),
        prunable={"features": (20, 4)},
    ),
    Architecture(
        "attention heads of a width that is kept",
        lambda: chain(embed=conv(3, 5, 4, stride=4), attention=KeptHeads(5, 12, 3)),
        prunable={"embed": (5, 1), "attention.qkv": (36, 9)},
    ),
    Architecture(
        "separate heads of a width that is kept",
        lambda: chain(embed=conv(3, 12, 4, stride=4), attention=SeparateHeads(12, 3)),
        prunable={"embed": (12, 1), "attention.query": (12, 3)},
    ),
    Architecture(
        "heads that lie together",
        lambda: chain(embed=conv(3, 5, 4, stride=4), attention=TripledHeads(12, 4)),
        prunable={"embed": (5, 1), "attention.qkv": (36, 9)},
    ),
    Architecture(
        "queries, keys and values taken apart",
        lambda: chain(embed=conv(3, 5), attention=LinearAttention(8, 2)),
        prunable={"embed": (5, 1), "attention.qkv": (24, 6)},
    ),
    Architecture(
        "grouped convolutions of chosen channels",
        lambda: chain(first=conv(3, 8), block=Condensed(), last=conv(12, 4)),
        prunable={"block.first": (16, 4)},
        pinned={"first": "chosen by an index"},
    ),
    Architecture(
        "a state from position to position",
        lambda: chain(scan=Scan(6, 3), last=nn.Linear(6, 4)),
        shapes=((1, 4, 5),),
        prunable={"scan.enter": (12, 2), "scan.read": (6, 2)},
        residual=frozenset({"scan.enter", "scan.read"}),
    ),
    Architecture(
        "equal sections of sizes that are kept",
        lambda: chain(first=conv(3, 8), norms=EqualSections(8), last=conv(8, 4)),
        prunable={"first": (8, 2)},
    ),
    Architecture(
        "split by a ratio",
        lambda: between(lambda x: torch.cat([part.relu() for part in _by_ratio(x)], 1), 9),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "features that become an image",
        lambda: Branches(
            generated, enter=nn.Linear(9, 20), up=nn.ConvTranspose2d(5, 6, 2, 2), last=conv(6, 4)
        ),
        shapes=((1, 9),),
        prunable={"enter": (20, 4), "up": (6, 1)},
    ),
    Architecture(
        "pixel shuffle written out",
        lambda: Branches(shuffled_up, first=conv(3, 12), last=conv(3, 4)),
        prunable={"first": (12, 4)},
    ),
    Architecture(
        "attention heads by size",
        lambda: Branches(
            heads_by_size,
            embed=conv(3, 5, 4, stride=4),
            query=nn.Linear(5, 6),
            key=nn.Linear(5, 6),
            value=nn.Linear(5, 6),
            last=nn.Linear(6, 4),
        ),
        prunable={"embed": (5, 1), "query": (6, 2)},
    ),
    Architecture(
        "what is read only in training",
        lambda: chain(first=conv(3, 6), scale=OnlyInTraining(6), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "a size written down for training only",
        lambda: chain(first=conv(3, 6), view=ReshapedInTraining(), last=conv(6, 4)),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "an empty part",
        lambda: between(lambda x: torch.cat([torch.empty(0, dtype=x.dtype), x, x[:, :0]], 1)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "the same numbers made twice",
        lambda: Branches(numbers_made_twice, first=conv(3, 6), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
)


def _by_ratio(x: Tensor) -> tuple[Tensor, ...]:
    third = x.shape[1] // 3
    return x.split([third, x.shape[1] - third], dim=1)
