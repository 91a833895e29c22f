"""What a trace writes down while a network runs."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.call_sites import CallSite
from pruning.channel_labels import AxisLabels, Labels
from pruning.operators.rule import Size

LOSES_WHOLE_GROUPS = "loses_whole_groups"
"""Attribute that surgery leaves on a grouped convolution, for later traces to go on likewise."""


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer (or a size attribute), with its labels."""

    name: str
    axis: int
    labels: Labels


@dataclass(frozen=True)
class StoredTensor:
    """A parameter or buffer with the labels of all its axes."""

    name: str
    axes: tuple[Labels, ...]
    element_size: int
    is_parameter: bool


@dataclass(frozen=True)
class Step:
    """One operator call: what must look alike when the network runs at other widths.

    constants: numbers that become values or scale them; a network that computes them from a
    width would not behave as if the removed channels were zero.
    shapes, axes: of what it returned. operands: labels of what it was given.
    """

    operator: str
    module: str
    constants: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[AxisLabels, ...]
    operands: tuple[AxisLabels, ...] = ()


@dataclass(frozen=True)
class Contraction:
    """A call in which two activations are multiplied and summed along `labels`.

    arguments: of the activations among the leaves of its arguments, the place and the labels.
    """

    call: CallSite
    labels: Labels
    arguments: tuple[tuple[int, AxisLabels], ...]


@dataclass
class Storage:
    """The memory of one activation: bytes per element, sizes of axes, first and last step.

    is_read: whether anything reads it; statistics that a kernel returns unasked are not.
    """

    element_size: int
    sizes: list[Size]
    first: int
    last: int
    is_read: bool = False
