"""What a rule sees: one call of an operator and the trace it is part of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels, ChannelLabels, Labels

Size = int | Labels
"""The size of an axis: a number, or labels whose kept share may shrink."""


class Costs(Protocol):
    """What the present call costs."""

    def count(self, factor: int, *sizes: Size) -> None:
        """Add factor × Π sizes to the FLOPs (fvcore's convention)."""

    def leave_out(self, *sizes: Size) -> None:
        """Note Π sizes multiply-adds of this operator, which fvcore does not count."""


class Reshapes(Protocol):
    """Where channels go on when a reshape splits their axis."""

    def split_axis(self, sizes: tuple[int, ...], axes: Sequence[int], usual: int) -> int:
        """The axis, of those that a reshape splits channels into, along which they go on.

        sizes: that the network asked for.  usual: the one that is tried first.
        """

    def went_on_along(self, labels: Labels) -> None:
        """Note the labels along the axis that `split_axis` chose."""

    def takes_apart(self, labels: Labels) -> None:
        """Note that places along this axis are taken one by one, as parts are, not channels."""


class Tracing(Protocol):
    """The part of a trace that rules read and write."""

    channels: ChannelLabels

    @property
    def costs(self) -> Costs:
        """To count what the call costs."""

    @property
    def reshapes(self) -> Reshapes:
        """To ask where channels go on."""

    def axes(self, tensor: Tensor) -> AxisLabels:
        """Labels per axis of a tensor seen before; none for a tensor of unknown origin."""

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether `tensor` was computed from parameters and buffers alone."""

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a parameter or buffer as it is, in whatever order of its axes."""

    def follows(self, tensor: Tensor, axis: int, labels: Labels) -> bool:
        """Whether a tensor without channels, all of one value, goes with however many there are.

        Its axis is then noted to be as long as these labels.
        """

    def produces(self, weight: Labels) -> None:
        """Note that these labels are the output axis of a weight: they name a group."""

    def consumes(self, weight: Labels) -> None:
        """Note that these labels are the input axis of a weight: a removed channel ends here."""

    def contracts(self, labels: Labels) -> None:
        """Note that two activations are multiplied and summed along these labels."""

    def adds(self, labels: Labels) -> None:
        """Note that activations of several producers are added here (a residual stream)."""

    def loses_whole_groups(self, weight: Tensor) -> bool | None:
        """What a grouped convolution lost with earlier surgery; None if it had none."""

    def splits_groups(self, weight: Tensor) -> None:
        """Note a grouped convolution that loses whole groups when it loses channels."""

    def splits_unevenly(self, labels: Labels) -> None:
        """Note channels divided into parts of several sizes, which may or may not follow them."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator: its packet's name, its arguments and what it returned."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...]
    """Every tensor among the arguments, in order."""

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at `position`, or called `name`, or `default`."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def output(self) -> Tensor:
        """The first, often the only, output."""
        return self.outputs[0]


Rule = Callable[[Tracing, Call], AxisLabels | list[AxisLabels]]
"""Returns the labels of the output, or a list of labels, one per output tensor."""


def unlabelled(tensor: Tensor) -> AxisLabels:
    """Labels of a tensor without channels."""
    return (None,) * tensor.dim()


def pin_all(tracing: Tracing, tensors: Sequence[Tensor], reason: str) -> None:
    """Pin every label of these tensors."""
    for tensor in tensors:
        for labels in tracing.axes(tensor):
            if labels is not None:
                tracing.channels.pin(labels, reason)


def pin_axes(tracing: Tracing, tensor: Tensor, axes: Sequence[int], reason: str) -> None:
    """Pin the labels of some axes of a tensor (negative axes count from the end)."""
    labels = tracing.axes(tensor)
    for axis in axes:
        own = labels[axis] if labels else None
        if own is not None:
            tracing.channels.pin(own, reason)


def mix_axes(tracing: Tracing, tensor: Tensor, axes: Sequence[int], reason: str) -> None:
    """Note that an operator makes something of all channels along some axes together.

    Without one of them the rest give another result, with the same shape: `pruning.trace`, exact.
    """
    labels = tracing.axes(tensor)
    for axis in axes:
        own = labels[axis] if labels else None
        if own is not None:
            tracing.channels.mixes(own, reason)


def tie_or_pin(
    tracing: Tracing, first: Labels | None, second: Labels | None, reason: str
) -> Labels | None:
    """Tie two axes of equal size; where just one carries channels, pin it for `reason`."""
    if first is not None and second is not None:
        tracing.channels.tie(first, second)
        return first
    known = first if first is not None else second
    if known is not None:
        tracing.channels.pin(known, reason)
    return known


def tie_each(
    tracing: Tracing, labels: Labels | None, values: Tensor, reason: str, *, axis: int = 0
) -> Labels | None:
    """Tie channels to a tensor that has values for each of them along `axis`, such as a bias.

    Where just one of the two carries channels, those are pinned for `reason`.
    """
    own = tracing.axes(values)[axis]
    if own is None and labels is not None and tracing.follows(values, axis, labels):
        return labels
    return tie_or_pin(tracing, labels, own, reason)


def size_of(tensor: Tensor, axis: int, tracing: Tracing) -> Size:
    """Labels of an axis if it carries channels, otherwise its length."""
    labels = tracing.axes(tensor)[axis]
    return int(tensor.shape[axis]) if labels is None else labels


def count_elements(tracing: Tracing, tensor: Tensor, factor: int = 1) -> None:
    """Add factor × the number of elements of `tensor` to the FLOPs."""
    tracing.costs.count(factor, *(size_of(tensor, axis, tracing) for axis in range(tensor.dim())))


def normalized(axis: int, ndim: int) -> int:
    """`axis` counted from the front."""
    return axis % ndim if ndim else 0


def aten_names(names: str) -> list[str]:
    """Space-separated names of operators as the dispatcher has them."""
    return [f"aten::{name}" for name in names.split()]


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """One rule under several space-separated operator names."""
    return dict.fromkeys(aten_names(names), rule)
