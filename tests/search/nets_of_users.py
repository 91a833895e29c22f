"""Networks of other people, most of which fail somewhere on their way through a search."""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Two convolutions and a classifier, which the networks below spoil."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class PairInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = super().forward(x)
        return (y, y) if self.training else y


class Frozen(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class FrozenBody(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.first.requires_grad_(False)
        self.second.requires_grad_(False)


class Detached(Plain):
    """The head alone gets gradients."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x).detach()


class WithoutGradients(Plain):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Double(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.double()


class DoubleInside(Double):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class DoubleAndBack(DoubleInside):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Random(Plain):
    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs + torch.rand_like(outputs)  # of inputs, a dead channel may see nothing


class RaisingInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise KeyError("no such\nlayer")
        return super().forward(x)


class ExitingInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            sys.exit(3)
        return super().forward(x)


class EndingInTraining(Plain):
    """Ends its process, past whoever would hear of an exception."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            os._exit(3)
        return super().forward(x)


class EndingInALoss(Plain):
    """Runs as it should wherever no gradients are asked for."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            os._exit(4)
        return super().forward(x)


class CrashingInTraining(Plain):
    """As a fault of a library in C does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            signal.raise_signal(signal.SIGSEGV)
        return super().forward(x)


class KilledInTraining(Plain):
    """As by the kernel when memory has run out."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class KeepingOnceNarrow(Plain):
    """Trained and pruned as any other; what is left cannot be copied: it cannot be folded."""

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        if self.training and len(self.first[1].weight) < 8:
            self.seen = x
        return x


class SparseInTraining(Plain):
    """Nobody can write its weights down."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("counts", torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.counts = torch.eye(2).to_sparse()
        return super().forward(x)


class BufferInTraining(Plain):
    """Its weights fit no network that has not been trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.register_buffer("mean", x.detach().mean())
        return super().forward(x)


class LearningBesideItsWeights(Plain):
    """Once loaded it answers otherwise."""

    shift = 0.0

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        if self.training and torch.is_grad_enabled():
            self.shift = 1.0
        return outputs + self.shift * torch.arange(outputs.shape[1], device=x.device)


class OneImageInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(1, 1, 8, 8) if self.training else x)


class Unpooling(Plain):
    """torch's tracer refuses it."""

    def features(self, x: Tensor) -> Tensor:
        x, indices = nn.functional.max_pool2d(super().features(x), 2, return_indices=True)
        return nn.functional.max_unpool2d(x, indices, 2)


class Compiled(Plain):
    """torch's tracer refuses it too."""

    def features(self, x: Tensor) -> Tensor:
        return torch.compile(super().features, backend="eager")(x)


class Unlearned(Plain):
    """A layer that no loss reaches: it is found by eval mode alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.extra = nn.Conv2d(8, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        return x if self.training else x + self.extra(x)


class LayerNorms(nn.Module):
    """As ConvNeXt: its stream cannot lose channels exactly, what is inside a block can."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, stride=2)
        self.block = InvertedBlock(8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.embed(x)).mean((2, 3))))


class InvertedBlock(nn.Module):
    """A depthwise convolution, a layer normalisation and two layers beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.project(F.gelu(self.expand(y))).permute(0, 3, 1, 2)


class LayerNormsAlone(LayerNorms):
    """All of its channels are along the stream."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.block.expand = self.block.project = nn.Identity()


class Heads(nn.Module):
    """Attention in four heads, whose number is kept."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.heads, self.head_width = 4, 2
        self.first = nn.Conv2d(1, 8, 2, stride=2)
        self.qkv = nn.Linear(8, 3 * self.heads * self.head_width)
        self.head = nn.Linear(self.heads * self.head_width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu().flatten(2).transpose(1, 2)
        n, places = x.shape[:2]
        parts = self.qkv(x).reshape(n, places, 3, self.heads, self.head_width)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=0.3)
        return self.head(attended.transpose(1, 2).flatten(2).mean(1))


class Attending(nn.Module):
    """64 positions that attend to each other, which costs more than all layers together."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu().flatten(2).transpose(1, 2)
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        return self.head(F.scaled_dot_product_attention(queries, keys, values, scale=0.3).mean(1))
