"""A small network with what is known of its channel graph by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from networks import randomised
from torch import Tensor, nn

from pruning import ChannelGraph, trace

Shape = tuple[int, ...]
IMAGE = (1, 3, 8, 8)


@dataclass(frozen=True)
class Architecture:
    """One network and what its channel graph must look like.

    make: builds it, with weights as torch initialises them.
    shapes: of its inputs; a mapping for keyword arguments.
    prunable: width and unit per group that can lose channels, in the order of the network.
    pinned: a part of the reason, per group that a feature of the network pins.
    residual: groups in which activations of several producers are added.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[Shape, ...] | Mapping[str, Shape] = (IMAGE,)
    prunable: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    residual: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name

    def example(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """A random input: one tensor, a tuple, or a mapping of keyword arguments."""
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: Shape) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype)

        if isinstance(self.shapes, Mapping):
            return {name: draw(shape) for name, shape in self.shapes.items()}
        tensors = tuple(draw(shape) for shape in self.shapes)
        return tensors if len(tensors) > 1 else tensors[0]

    def network(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network in eval mode, every parameter and buffer random."""
        return randomised(self.make(), seed).to(dtype).eval()

    @functools.cached_property
    def graph(self) -> ChannelGraph:
        """Its trace, made once: graphs hold no tensor of the network."""
        return trace(self.make(), self.example())


COMPUTED = "a number that is computed from the number of channels"
WRITTEN = "size written into the network's code"
NO_RULE = "has no rule"
