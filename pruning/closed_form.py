"""Sums of products of axis sizes, evaluated at any widths in microseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.operators.rule import Size

Floats = NDArray[np.float64]


class AxisSizes:
    """Axis sizes as affine functions of the number of units kept of each group.

    size = constant + Σ_g multiplicity_g · units_g, collected row by row so that all sizes of a
    network are one matrix-vector product.

    group_of_atom: the group of every atom, -1 where the atom is in none.
    units: number of units per group at full width.
    """

    def __init__(self, group_of_atom: NDArray[np.int64], units: NDArray[np.int64]) -> None:
        self._group_of_atom = group_of_atom
        self._units = units
        self._rows: dict[tuple[int, ...], int] = {}
        self.row_of((1,))

    def row_of(self, size: Size | tuple[int]) -> int:
        """The row of this size; equal sizes share a row. Row 0 is the constant 1."""
        key = (int(size),) if isinstance(size, int) else self._key(size)
        return self._rows.setdefault(key, len(self._rows))

    def _key(self, labels: NDArray[np.int64] | tuple[int]) -> tuple[int, ...]:
        """(constant, group, multiplicity, group, multiplicity, …)."""
        if isinstance(labels, tuple):
            return labels
        groups, counts = np.unique(self._group_of_atom[labels], return_counts=True)
        key: list[int] = [0]
        for group, count in zip(groups.tolist(), counts.tolist(), strict=True):
            if group < 0:
                key[0] = count
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


class ClosedForm:
    """Σ_t factor_t · Π_i size_{t,i} as a function of the units kept per group.

    Evaluated in float64, exact for totals below 2⁵³.
    """

    def __init__(self, sizes: AxisSizes, terms: Sequence[tuple[int, Sequence[Size]]]) -> None:
        merged: dict[tuple[int, ...], int] = {}
        for factor, factors in terms:
            number, rows = factor, []
            for size in factors:
                if isinstance(size, int):
                    number *= size
                else:
                    rows.append(sizes.row_of(size))
            key = tuple(sorted(rows))
            merged[key] = merged.get(key, 0) + number
        degree = max((len(rows) for rows in merged), default=0)
        self._factors = np.array(list(merged.values()), dtype=np.float64)
        self._rows = np.array(
            [(*rows, *[0] * (degree - len(rows))) for rows in merged], dtype=np.intp
        ).reshape(len(merged), degree)

    def __call__(self, sizes: Floats) -> int:
        """The total, given the value of every row of sizes."""
        return round(float(self._factors @ sizes[self._rows].prod(axis=1)))
