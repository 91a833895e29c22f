"""How the origins of networks are drawn and called: one table for pictures, pages and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_server import schema


@dataclass(frozen=True)
class Style:
    """How networks of one origin appear.

    colour: as in MLflow's charts.  marker: matplotlib's.  symbol: Plotly's.
    name: in tables.  words: in sentences.
    """

    colour: str
    marker: str
    symbol: str
    name: str
    words: str


_LOOKS = {
    "base": ("*", "star", "base", "the base network"),
    "sparse": ("p", "pentagon", "trained sparsely", "trained sparsely and not pruned"),
    "fine-tuned": ("o", "circle", "fine-tuned", "pruned and fine-tuned"),
    "from-scratch": ("s", "square", "from scratch", "a pruned shape from scratch"),
    "copycat": ("^", "triangle-up", "copycat", "a rescaled shape from scratch (copycat)"),
    "tempered": (
        *("v", "triangle-down", "tempered copycat"),
        "a shape at or between found and uniform ones, from scratch (tempered)",
    ),
    "uniform": ("x", "x", "uniformly narrowed", "the uniformly narrowed network"),
    "random": ("D", "diamond", "random widths", "a shape of random widths"),
    "bottleneck": ("P", "cross", "bottleneck", "a bottleneck shape"),
    "wrn": ("h", "hexagon2", "WRN-k", "a wide ResNet of another width"),
}
STYLES: Mapping[str, Style] = {
    origin: Style(schema.COLOURS[origin], *look) for origin, look in _LOOKS.items()
}
_FURTHER = (("#000000", "+"), ("#7f7f7f", "X"), ("#8c564b", "<"), ("#56b4e9", ">"))
"""Colour and marker of kinds of network beyond those."""


def style_of(origin: str, number: int = 0) -> Style:
    """The style of an origin, or of a kind of network; number: which of those without one it is."""
    if origin in STYLES:
        return STYLES[origin]
    colour, marker = _FURTHER[number % len(_FURTHER)]
    return Style(colour, marker, "hexagon", origin, f"a {origin} shape")
