"""Connected components against the obvious algorithm, and the reasons that pin them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.graph.channel_labels import ChannelLabels


def components_one_by_one(num_atoms: int, ties: list[tuple[int, int]]) -> list[int]:
    """Numbered by first atom, by relabelling everything at each tie."""
    component = list(range(num_atoms))
    for first, second in ties:
        old, new = component[second], component[first]
        component = [new if c == old else c for c in component]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(c, len(numbers)) for c in component]


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_components(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_atoms, ties = case
    labels = ChannelLabels()
    atoms = labels.new(num_atoms)
    for first, second in ties:
        labels.tie(atoms[[first]], atoms[[second]])
    assert labels.components().tolist() == components_one_by_one(num_atoms, ties)


def test_a_long_chain_tied_backwards() -> None:
    """The worst order for hooking the larger root below the smaller one."""
    labels = ChannelLabels()
    atoms = labels.new(2000)
    labels.tie(atoms[:-1][::-1], atoms[1:][::-1])
    assert labels.components().tolist() == [0] * 2000


def test_rows_are_tied_column_by_column() -> None:
    labels = ChannelLabels()
    columns = labels.tie_rows(labels.new(6).reshape(3, 2))
    assert columns.tolist() == [0, 1]
    assert labels.components().tolist() == [0, 1, 0, 1, 0, 1]


def test_nothing_is_tied_at_first() -> None:
    labels = ChannelLabels()
    assert labels.components().tolist() == []
    assert [labels.new(2).tolist(), labels.new(3).tolist()] == [[0, 1], [2, 3, 4]]
    assert labels.components().tolist() == [0, 1, 2, 3, 4]


def test_the_first_reason_pins_the_whole_component() -> None:
    labels = ChannelLabels()
    atoms = labels.new(4)
    labels.pin(atoms[[3]], "first")
    labels.pin(atoms[[0, 3]], "second")
    labels.tie(atoms[[1]], atoms[[3]])
    components = labels.components()
    assert components.tolist() == [0, 1, 2, 1]
    assert labels.pinned(components) == {1: "first", 0: "second"}


def test_axes_of_different_sizes_cannot_be_tied() -> None:
    labels = ChannelLabels()
    with pytest.raises(AssertionError):
        labels.tie(labels.new(2), np.zeros(3, dtype=np.int64))
