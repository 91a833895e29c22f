"""Sums of products of axis sizes, evaluated at any widths in microseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.graph.operators.rule import Size

Floats = NDArray[np.float64]
Term = tuple[int, Sequence[Size]]
"""A factor and the sizes it is multiplied by."""


class AxisSizes:
    """Axis sizes as affine functions of the number of units kept of each group.

    size = constant + Σ_g multiplicity_g · units_g, collected row by row so that all sizes of a
    network are one matrix-vector product.

    group_of_atom: the group of every atom, -1 where the atom is in none.
    units: number of units per group at full width.
    """

    def __init__(self, group_of_atom: NDArray[np.int32], units: NDArray[np.int32]) -> None:
        self._group_of_atom = group_of_atom
        self._units = units
        self._rows: dict[tuple[int, ...], int] = {}
        self._seen: dict[int, tuple[object, int]] = {}
        self.row_of((1,))

    def row_of(self, size: Size | tuple[int]) -> int:
        """The row of this size; equal sizes share a row. Row 0 is the constant 1."""
        if id(size) not in self._seen:
            key = (int(size),) if isinstance(size, int) else self._key(size)
            row = self._rows.setdefault(key, len(self._rows))
            self._seen[id(size)] = size, row  # the size itself, so that its id stays taken
        return self._seen[id(size)][1]

    def _key(self, labels: NDArray[np.int32] | tuple[int]) -> tuple[int, ...]:
        """(constant, group, multiplicity, group, multiplicity, …)."""
        if isinstance(labels, tuple):
            return labels
        counts = np.bincount(self._group_of_atom[labels] + 1)
        key: list[int] = [0]
        for place in np.flatnonzero(counts).tolist():
            group, count = place - 1, int(counts[place])
            if group < 0 or count % self._units[group]:  # a part of a pinned group never shrinks
                key[0] += count
            else:
                key += [group, count // int(self._units[group])]
        return tuple(key)

    def matrix(self) -> tuple[Floats, Floats]:
        """Constants (rows) and multiplicities (rows × groups)."""
        constants = np.zeros(len(self._rows))
        multiplicities = np.zeros((len(self._rows), len(self._units)))
        for key, row in self._rows.items():
            constants[row] = key[0]
            for group, count in zip(key[1::2], key[2::2], strict=True):
                multiplicities[row, group] = count
        return constants, multiplicities


class Products:
    """factor_t · Π_i size_{t,i} per term, as a function of the sizes of axes.

    Evaluated in float64, exact for values below 2⁵³.
    """

    def __init__(self, sizes: AxisSizes, terms: Sequence[Term]) -> None:
        products = [_constants_apart(sizes, term) for term in terms]
        degree = max((len(rows) for _, rows in products), default=0)
        self._factors = np.array([factor for factor, _ in products], dtype=np.float64)
        self._rows = np.array(
            [(*rows, *[0] * (degree - len(rows))) for _, rows in products], dtype=np.intp
        ).reshape(len(products), degree)

    def __call__(self, sizes: Floats) -> Floats:
        """The value of every term, given the value of every row of sizes."""
        values: Floats = self._factors * sizes[self._rows].prod(axis=1)
        return values


class ClosedForm:
    """The sum of all terms as a function of the sizes of axes; like terms are merged."""

    def __init__(self, sizes: AxisSizes, terms: Sequence[Term]) -> None:
        merged: dict[tuple[int, ...], int] = {}
        originals: dict[tuple[int, ...], Sequence[Size]] = {}
        for term in terms:
            factor, rows = _constants_apart(sizes, term)
            key = tuple(sorted(rows))
            merged[key] = merged.get(key, 0) + factor
            originals.setdefault(key, [size for size in term[1] if not isinstance(size, int)])
        self._products = Products(sizes, [(merged[key], originals[key]) for key in merged])

    def __call__(self, sizes: Floats) -> int:
        """The total, given the value of every row of sizes."""
        return round(float(self._products(sizes).sum()))


class PeakForm:
    """The largest sum of the sizes of what is alive at once.

    lives: first and last moment of each term, both included.
    """

    def __init__(
        self, sizes: AxisSizes, terms: Sequence[Term], lives: Sequence[tuple[int, int]]
    ) -> None:
        self._products = Products(sizes, terms)
        moments = np.array(lives, dtype=np.intp).reshape(len(lives), 2)
        self._births, self._deaths = moments[:, 0], moments[:, 1] + 1
        self._num_moments = int(self._deaths.max(initial=0)) + 1

    def __call__(self, sizes: Floats) -> int:
        """The peak, given the value of every row of sizes."""
        values = self._products(sizes)
        change = np.bincount(self._births, weights=values, minlength=self._num_moments)
        change -= np.bincount(self._deaths, weights=values, minlength=self._num_moments)
        return round(float(change.cumsum().max(initial=0.0)))


def _constants_apart(sizes: AxisSizes, term: Term) -> tuple[int, list[int]]:
    """A term as the product of its constants and the rows of its other sizes."""
    factor, rows = term[0], []
    for size in term[1]:
        if isinstance(size, int):
            factor *= size
        else:
            rows.append(sizes.row_of(size))
    return factor, rows
