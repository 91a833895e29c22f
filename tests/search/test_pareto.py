"""The front against its definition, by brute force."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import dominates, front, spread


@dataclass(frozen=True)
class Measured:
    """A point; `number` tells equal ones apart."""

    validation_accuracy: float
    flops: int
    number: int = 0


def measured(pairs: list[tuple[int, int]]) -> list[Measured]:
    return [Measured(accuracy / 10, flops, i) for i, (accuracy, flops) in enumerate(pairs)]


# Few values, so that ties are frequent.
clouds = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=12).map(measured)


def values(points: list[Measured]) -> list[tuple[float, int]]:
    return [(p.validation_accuracy, p.flops) for p in points]


@given(clouds, clouds)
def test_dominating_is_a_strict_order(first, second):
    for a in first:
        assert not dominates(a, a)
        for b in second:
            better = (a.validation_accuracy > b.validation_accuracy, a.flops < b.flops)
            worse = (a.validation_accuracy < b.validation_accuracy, a.flops > b.flops)
            assert dominates(a, b) == (any(better) and not any(worse))


@given(clouds)
def test_the_front_is_what_no_point_dominates(points):
    expected = {
        (p.validation_accuracy, p.flops)
        for p in points
        if not any(dominates(other, p) for other in points)
    }
    found = values(front(points))
    assert set(found) == expected
    assert len(found) == len(expected)


@given(clouds)
def test_the_front_rises_in_both_cost_and_accuracy(points):
    found = front(points)
    for cheaper, dearer in itertools.pairwise(found):
        assert cheaper.flops < dearer.flops
        assert cheaper.validation_accuracy < dearer.validation_accuracy


@given(clouds)
def test_of_equal_points_the_first_stays(points):
    for point in front(points):
        equal = [p for p in points if values([p]) == values([point])]
        assert point.number == equal[0].number


@given(clouds.flatmap(lambda points: st.tuples(st.just(points), st.permutations(points))))
def test_the_order_of_the_points_does_not_matter(both):
    points, shuffled = both
    assert values(front(points)) == values(front(shuffled))


def test_no_points_have_no_front():
    assert front([]) == []
    assert spread([], 3) == []


@given(clouds, st.integers(1, 8))
def test_a_spread_keeps_order_and_both_ends(points, count):
    chosen = spread(points, count)
    assert len(chosen) == min(len(points), count)
    assert [p for p in points if p in chosen] == chosen
    if count >= 2 and points:
        assert (chosen[0], chosen[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [6]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, None)]
)
def test_a_spread_is_even(count, expected):
    points = measured([(i % 6, i + 1) for i in range(7)])
    numbers = [p.number for p in spread(points, count)]
    assert numbers == (list(range(7)) if expected is None else expected)
