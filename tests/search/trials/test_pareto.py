"""The front against its definition, by brute force."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import base_outcome, outcome

from search.trials.pareto import dominates, front, hypervolume, spread, without_base


@dataclass(frozen=True)
class Measured:
    """A point; `number` tells equal ones apart."""

    validation_score: float
    flops: int
    number: int = 0


def measured(pairs: list[tuple[int, int]]) -> list[Measured]:
    return [Measured(accuracy / 10, flops, i) for i, (accuracy, flops) in enumerate(pairs)]


# Few values, so that ties are frequent.
clouds = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=12).map(measured)


def values(points: list[Measured]) -> list[tuple[float, int]]:
    return [(p.validation_score, p.flops) for p in points]


@given(clouds, clouds)
def test_dominating_is_a_strict_order(first, second):
    for a in first:
        assert not dominates(a, a)
        for b in second:
            better = (a.validation_score > b.validation_score, a.flops < b.flops)
            worse = (a.validation_score < b.validation_score, a.flops > b.flops)
            assert dominates(a, b) == (any(better) and not any(worse))


@given(clouds)
def test_the_front_is_what_no_point_dominates(points):
    expected = {
        (p.validation_score, p.flops)
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
        assert cheaper.validation_score < dearer.validation_score


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
    assert hypervolume([], 1) == 0
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


BASE_FLOPS = 4
"""Below the dearest points of the clouds, which then add nothing."""


@given(clouds)
def test_the_hypervolume_is_the_area_that_points_dominate(points):
    """On the grid of the clouds the area is a number of cells, counted one by one."""
    covered = sum(
        any(10 * p.validation_score > row + 0.5 and p.flops <= column for p in points)
        for row, column in itertools.product(range(10), range(BASE_FLOPS))
    )
    assert hypervolume(points, BASE_FLOPS) == pytest.approx(covered / (10 * BASE_FLOPS))


@given(clouds, clouds)
def test_more_points_never_take_hypervolume_away(points, more):
    assert hypervolume(points, 6) <= hypervolume([*points, *more], 6) + 1e-12
    assert hypervolume(front(points), 6) == hypervolume(points, 6)


def test_the_hypervolume_of_the_best_of_all_is_nearly_one():
    assert hypervolume([Measured(1.0, 1)], 1_000_000) == pytest.approx(1 - 1e-6)
    assert hypervolume([Measured(0.8, 25), Measured(0.9, 50)], 100) == pytest.approx(
        0.8 * 0.25 + 0.9 * 0.5
    )


def test_the_base_network_does_not_compete():
    networks = [outcome("a"), base_outcome(), outcome("b", origin="uniform")]
    assert [network.key for network in without_base(networks)] == ["a", "b"]
