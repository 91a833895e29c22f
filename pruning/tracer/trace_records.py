"""What a trace writes down while a network runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pruning.graph.call_sites import CallSite
from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import Size

LOSES_WHOLE_GROUPS = "loses_whole_groups"
"""Attribute that surgery leaves on a grouped convolution, for later traces to go on likewise."""


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer, or an attribute with a number of channels; its labels.

    name: of the tensor, or of the attribute, such as block.width or block.sizes.1.
    """

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


ReshapeKey = tuple[str, int]
"""A module and the number of a reshape among those that it makes in one run."""


@dataclass(frozen=True)
class Course:
    """How the channels go on in a reshape that splits their axis.

    axis: of the result.  width_of: a tensor and its axis, of other channels, from whose number
        the network works out the size of that axis, or None.
    of_heads: whether the axis is one of whole heads of an attention, by choice.
    """

    axis: int
    width_of: tuple[str, int] | None = None
    of_heads: bool = False


Courses = Mapping[ReshapeKey, Course]
"""How channels go on in reshapes, where that is not the usual way."""


@dataclass(frozen=True)
class Reshape:
    """A reshape that splits an axis of channels, of which one part can go on as the channels.

    sizes: that the network asked for.  axes: of the result, that the channels may be along.
    course: what was taken.
    """

    key: ReshapeKey
    sizes: tuple[int, ...]
    axes: tuple[int, ...]
    course: Course


@dataclass(frozen=True, slots=True)
class Step:
    """One operator call: what must look alike when the network runs at other widths.

    constants: numbers that become values or scale them; a network that computes them from a
    width would not behave as if the removed channels were zero.
    shapes, axes, dtypes: of what it returned. operands: labels of what it was given.
    reshape: where the labels of one axis were given to one of several.
    is_filled: whether all values of what it returned are alike, so that it may be of any size.
    """

    operator: str
    module: str
    constants: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[AxisLabels, ...]
    dtypes: tuple[torch.dtype, ...] = ()
    operands: tuple[AxisLabels, ...] = ()
    reshape: Reshape | None = None
    is_filled: bool = False


@dataclass(frozen=True)
class Rows:
    """The first `number` positions of a parameter's first axis, with their labels."""

    parameter: str
    labels: Labels
    number: int


@dataclass(frozen=True)
class Contraction:
    """A call in which two activations are multiplied and summed along `labels`.

    arguments: of the activations among the leaves of its arguments, the place and the labels.
    weights: parameters that make one of the two activations inside the call.
    """

    call: CallSite
    labels: Labels
    arguments: tuple[tuple[int, AxisLabels], ...]
    weights: tuple[Rows, ...] = ()


@dataclass(slots=True)
class Storage:
    """The memory of one activation: bytes per element, sizes of axes, first and last step.

    is_read: whether anything reads it; statistics that a kernel returns unasked are not.
    """

    element_size: int
    sizes: list[Size]
    first: int
    last: int
    is_read: bool = False
