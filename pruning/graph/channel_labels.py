"""Labels that say which channel every position of a tensor axis belongs to.

An *atom* is one position of one axis of one parameter or buffer. Operators tie atoms that
must be kept or removed together; the connected components of all ties are the channels of
the network. A component that touches something of fixed size is pinned, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
"""One atom per position of an axis."""

Tie = tuple[Labels, Labels]
"""Atoms that must be kept or removed together, position by position."""

AxisLabels = tuple[Labels | None, ...]
"""Per axis of a tensor: its labels, or None where the axis carries no channels."""


@dataclass(frozen=True, slots=True)
class TensorLabels:
    """What is known of one tensor.

    axes: labels per axis.
    from_parameters: computed from parameters and buffers alone, so no activation.
    is_stored: a parameter or buffer itself, or a view or copy of it.
    """

    axes: AxisLabels
    from_parameters: bool = False
    is_stored: bool = False


class ChannelLabels:
    """The atoms of one trace, the ties between them and the reasons that pin some.

    exact: whether what would change the values of other channels pins, too.
    """

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self._num_atoms = 0
        self._ties: list[Tie] = []
        self._pins: list[tuple[Labels, str]] = []
        self._inexact: list[tuple[Labels, str]] = []

    def new(self, size: int) -> Labels:
        """Labels of `size` fresh atoms."""
        first = self._num_atoms
        self._num_atoms += size
        return np.arange(first, self._num_atoms, dtype=np.int32)

    def tie(self, first: Labels, second: Labels) -> None:
        """Keep or remove position i of `first` together with position i of `second`."""
        assert first.shape == second.shape, (first.shape, second.shape)
        if first is not second:
            self._ties.append((first, second))

    def pin(self, labels: Labels, reason: str) -> None:
        """Forbid the removal of these atoms; the first reason given is the one reported."""
        self._pins.append((labels, reason))

    def mixes(self, labels: Labels, reason: str) -> None:
        """Note that without one of these channels the others take other values.

        That pins them where removal must be exact.
        """
        (self._pins if self.exact else self._inexact).append((labels, reason))

    def tie_rows(self, matrix: Labels) -> Labels:
        """Tie all rows of a rows×columns matrix of atoms; returns the labels of its columns."""
        first: Labels = matrix[0]
        for row in matrix[1:]:
            self.tie(first, row)
        return first

    def components(self, further: Iterable[Tie] = ()) -> Labels:
        """The component of every atom, numbered by the order of their first atoms.

        further: ties that hold for this result only.
        """
        root = np.arange(self._num_atoms, dtype=np.int32)
        for ties in _batches((*self._ties, *further), at_least=len(root) // 8):
            _hook_until_stable(root, *(np.concatenate(side) for side in zip(*ties, strict=True)))
        numbers = np.cumsum(root == np.arange(len(root), dtype=np.int32), dtype=np.int32) - 1
        return numbers[root]

    def pinned(self, components: Labels) -> dict[int, str]:
        """The reason per pinned component."""
        return _first_reasons(self._pins, components)

    def inexact(self, components: Labels) -> dict[int, str]:
        """Per component whose removal changes other channels' values, the reason."""
        return _first_reasons(self._inexact, components)


def _batches(ties: Iterable[Tie], at_least: int) -> Iterator[list[Tie]]:
    """The ties in runs that are few, for speed, and short beside all atoms, for memory."""
    batch: list[Tie] = []
    size = 0
    for tie in ties:
        batch.append(tie)
        size += len(tie[0])
        if size > at_least:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _first_reasons(noted: Iterable[tuple[Labels, str]], components: Labels) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for labels, reason in noted:
        for component in np.unique(components[labels]).tolist():
            reasons.setdefault(component, reason)
    return reasons


def _hook_until_stable(root: Labels, left: Labels, right: Labels) -> None:
    """Connected components by hooking the larger root below the smaller one, in place.

    Vectorised: a tie costs no Python step. `root` ends as the least atom of each component.
    """
    while True:
        a, b = root[left], root[right]
        low, high = np.minimum(a, b), np.maximum(a, b)
        if np.array_equal(low, high):
            return
        np.minimum.at(root, high, low)
        while not np.array_equal(root, shorter := root[root]):
            root[:] = shorter
