"""MobileNetV2 at every width multiplier, priced in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch

from copycat.builder import Builder
from copycat.families.builder_series import BuilderSeries, changed
from copycat.families.series import Shape
from pruning.cost import Cost, ExampleInput
from pruning.graph.channel_graph import ChannelGraph
from pruning.tracing import whole_trace

TARGET: Final = "torchvision.models:mobilenet_v2"

_STEM, _LAST = 32, 1280
_STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks and stride (Sandler et al. 2018, Table 2)."""

_WIDTHS = (_STEM, *(channels for _, channels, _, _ in _STAGES), _LAST)
_DIVISOR = 8
_AFTER = 1 + 1e-9
"""A multiplier just past the one at which torchvision rounds to the wider of two widths."""


class MobileNetSeries(BuilderSeries):
    """torchvision's MobileNetV2 by its width multiplier, up to `most`.

    A network of each topology is traced when it is first asked for: narrow networks have
    shortcuts where two stages of stride 1 happen to be equally wide. Others are priced by it.
    """

    def __init__(self, num_classes: int, most: float, example_input: ExampleInput) -> None:
        plain = Builder(TARGET, {"weights": None, "num_classes": num_classes})
        builders = {m: changed(plain, width_mult=m) for m in width_multiples(most)}
        super().__init__(builders, example_input)
        self._graphs: dict[tuple[bool, ...], ChannelGraph] = {}

    def cost(self, shape: Shape) -> Cost:
        assert shape.builder is not None
        multiplier = shape.builder.arguments["width_mult"]
        assert isinstance(multiplier, float), multiplier
        graph, layers = self._graph(shape.builder, multiplier), dict(_layers(multiplier))
        return graph.cost({group.name: layers[group.name] for group in graph.prunable})

    def _graph(self, builder: Builder, multiplier: float) -> ChannelGraph:
        shortcuts = _shortcuts(multiplier)
        if shortcuts not in self._graphs:
            with torch.random.fork_rng(devices=[]):  # weights do not matter here
                network = builder()
            self._graphs[shortcuts] = whole_trace(network, self._example_input)
        return self._graphs[shortcuts]


def width_multiples(most: float) -> list[float]:
    """Every multiplier up to `most` at which some width of MobileNetV2 changes, rising.

    torchvision rounds multiplier·width to the nearest multiple of 8, half up, and takes the
    next one where that would lose more than a tenth. The last layer's width is not narrowed.
    """
    multipliers: set[float] = set()
    for width in _WIDTHS:
        for count in range(math.ceil(most * width / _DIVISOR) + 1):
            multipliers.add((count + 0.5) * _DIVISOR / width)
            multipliers.add(count * _DIVISOR / 0.9 / width * _AFTER)
    multipliers.add(min(multipliers) / 2)  # all at their floor of 8
    shapes: dict[tuple[int, ...], float] = {}
    for multiplier in sorted(m for m in multipliers if 0 < m <= most):
        shapes.setdefault(_widths_at(multiplier), multiplier)
    shapes[_widths_at(1.0)] = 1.0
    return sorted(m for m in shapes.values() if m <= most)


def _layers(multiplier: float) -> Iterator[tuple[str, int]]:
    """torchvision's names of the layers that produce channels, and how many."""
    stem, *stages, last = _widths_at(multiplier)
    yield "features.0.0", stem
    number, inputs = 1, stem
    for (expansion, _, blocks, _), width in zip(_STAGES, stages, strict=True):
        for _ in range(blocks):
            if expansion > 1:
                yield f"features.{number}.conv.0.0", expansion * inputs
            yield f"features.{number}.conv.{1 if expansion == 1 else 2}", width
            number, inputs = number + 1, width
    yield f"features.{number}.0", last


def _shortcuts(multiplier: float) -> tuple[bool, ...]:
    """Per stage, whether its first block has a shortcut: stride 1 and equal widths."""
    widths = _widths_at(multiplier)
    return tuple(
        stride == 1 and inputs == width
        for (*_, stride), inputs, width in zip(_STAGES, widths, widths[1:], strict=False)
    )


def _widths_at(multiplier: float) -> tuple[int, ...]:
    *narrowed, last = (width * multiplier for width in _WIDTHS)
    return (*map(_rounded, narrowed), _rounded(max(last, _LAST)))


def _rounded(width: float) -> int:
    nearest = max(_DIVISOR, int(width + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest + _DIVISOR if nearest < 0.9 * width else nearest
