"""Sums of products of sizes against the same sums written out."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pruning.graph.closed_form import AxisSizes, ClosedForm

# 12 atoms: group 0 has 3 units of 2 atoms, group 1 has 4 of 1, two atoms are in no group.
GROUP = np.array([0, 1, 0, 1, 0, -1, 0, 1, 0, 1, 0, -1], dtype=np.int64)
UNITS = np.array([3, 4], dtype=np.int64)
WHOLE = {
    0: np.flatnonzero(GROUP == 0),
    1: np.flatnonzero(GROUP == 1),
    -1: np.flatnonzero(GROUP < 0),
}


def value(form: ClosedForm, sizes: AxisSizes, units: tuple[int, int]) -> int:
    constants, multiplicities = sizes.matrix()
    return form(constants + multiplicities @ np.array(units, dtype=np.float64))


PARTS = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4)
SIZES = st.one_of(st.integers(1, 9), PARTS)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.lists(SIZES, max_size=3)), max_size=5),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_sums_of_products(
    terms: list[tuple[int, list[int | list[int]]]], units: tuple[int, int]
) -> None:
    """An axis is any concatenation of whole groups and constants, as networks make them."""
    sizes = AxisSizes(GROUP, UNITS)
    form = ClosedForm(
        sizes,
        [
            (
                factor,
                [s if isinstance(s, int) else np.concatenate([WHOLE[p] for p in s]) for s in axes],
            )
            for factor, axes in terms
        ],
    )
    now = {0: 2 * units[0], 1: units[1], -1: 2}
    expected = 0
    for factor, axes in terms:
        lengths = [s if isinstance(s, int) else sum(now[part] for part in s) for s in axes]
        expected += factor * math.prod(lengths)
    assert value(form, sizes, units) == expected


def test_no_terms_cost_nothing() -> None:
    sizes = AxisSizes(GROUP, UNITS)
    assert value(ClosedForm(sizes, []), sizes, (1, 1)) == 0


def test_equal_sizes_share_a_row() -> None:
    sizes = AxisSizes(GROUP, UNITS)
    assert sizes.row_of(WHOLE[0]) == sizes.row_of(WHOLE[0][::-1].copy())
    assert sizes.row_of(WHOLE[0]) != sizes.row_of(WHOLE[1])
    assert sizes.row_of((1,)) == 0
