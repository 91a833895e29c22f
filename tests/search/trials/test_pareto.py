"""The front against its definition, by brute force."""

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ABSOLUTE_ERROR, MEAN_IOU, SCORES, base_outcome, hypervolume, outcome

from search.tasks.score import ACCURACY, Score
from search.trials.pareto import (
    Hypervolume,
    Reference,
    best,
    dominates,
    front,
    spread,
    without_base,
)

SHARE_OF_ERRORS = Score("error rate", "minimize")


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


with_every_score = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.slug)


def is_better(a: Measured, b: Measured, score: Score) -> bool:
    if score.direction == "minimize":
        return a.validation_score < b.validation_score
    return a.validation_score > b.validation_score


@with_every_score
@given(first=clouds, second=clouds)
def test_dominating_is_a_strict_order(score, first, second):
    for a in first:
        assert not dominates(a, a, score)
        for b in second:
            better = (is_better(a, b, score), a.flops < b.flops)
            worse = (is_better(b, a, score), a.flops > b.flops)
            assert dominates(a, b, score) == (any(better) and not any(worse))


@with_every_score
@given(points=clouds)
def test_the_front_is_what_no_point_dominates(score, points):
    expected = {
        (p.validation_score, p.flops)
        for p in points
        if not any(dominates(other, p, score) for other in points)
    }
    found = values(front(points, score))
    assert set(found) == expected
    assert len(found) == len(expected)


@with_every_score
@given(points=clouds)
def test_what_costs_more_on_the_front_is_better(score, points):
    found = front(points, score)
    for cheaper, dearer in itertools.pairwise(found):
        assert cheaper.flops < dearer.flops
        assert is_better(dearer, cheaper, score)


@with_every_score
@given(points=clouds)
def test_the_best_is_the_last_of_the_front(score, points):
    found = front(points, score)
    leading = best(points, score)
    assert (None if leading is None else values([leading])) == (values(found)[-1:] or None)


@given(clouds)
def test_of_equal_points_the_first_stays(points):
    for point in front(points, ACCURACY):
        equal = [p for p in points if values([p]) == values([point])]
        assert point.number == equal[0].number


@given(clouds.flatmap(lambda points: st.tuples(st.just(points), st.permutations(points))))
def test_the_order_of_the_points_does_not_matter(both):
    points, shuffled = both
    assert values(front(points, ACCURACY)) == values(front(shuffled, ACCURACY))


def test_no_points_have_no_front():
    assert front([], ACCURACY) == []
    assert best([], ACCURACY) is None
    assert hypervolume([], REFERENCE, ACCURACY) == 0
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


REFERENCE = Reference(score=0.0, flops=4.0, least_flops=1.0)
"""Below the dearest points of the clouds, which then add nothing."""


@given(clouds)
def test_the_hypervolume_is_the_area_that_points_dominate(points):
    """Between two neighbouring FLOPs of the clouds, the best score of what costs no more."""
    area = 0.0
    for flops in range(1, 4):
        reached = [p.validation_score for p in points if p.flops <= flops]
        area += math.log((flops + 1) / flops) * max(reached, default=0.0)
    assert hypervolume(points, REFERENCE, MEAN_IOU) == pytest.approx(area / math.log(4))


@pytest.mark.parametrize("score", [ACCURACY, SHARE_OF_ERRORS])
@given(points=clouds, more=clouds)
def test_more_points_never_take_hypervolume_away(score, points, more):
    reference = Reference(0.3, 6.0, 1.0)
    volume = Hypervolume(reference, score)
    before = 0.0
    for point in [*points, *more]:
        volume.add(point)
        assert volume.value >= before - 1e-12
        before = volume.value
    assert hypervolume(front(points, score), reference, score) == pytest.approx(
        hypervolume(points, reference, score)
    )


def test_the_corner_is_a_network_that_guesses_within_the_budget():
    reference = Reference(0.1, 1000, 10)
    assert hypervolume([Measured(0.1, 10)], reference, ACCURACY) == 0
    assert hypervolume([Measured(0.05, 10)], reference, ACCURACY) == 0
    assert hypervolume([Measured(1.0, 1000)], reference, ACCURACY) == 0
    assert hypervolume([Measured(1.0, 2000)], reference, ACCURACY) == 0
    assert hypervolume([Measured(1.0, 10)], reference, ACCURACY) == pytest.approx(1)
    assert hypervolume([Measured(1.0, 1)], reference, ACCURACY) == pytest.approx(1)
    assert hypervolume([Measured(0.55, 100)], reference, ACCURACY) == pytest.approx(0.25)
    points = [Measured(0.55, 100), Measured(1.0, 500)]
    expected = 0.25 + 0.5 * math.log(2) / math.log(100)
    assert hypervolume(points, reference, ACCURACY) == pytest.approx(expected)


def test_a_floor_at_the_budget_leaves_no_area_to_divide_by_zero():
    assert hypervolume([Measured(1.0, 100)], Reference(0.1, 100, 100), ACCURACY) == 0


@given(clouds)
def test_the_hypervolume_of_errors_is_that_of_what_is_right(points):
    right = [Measured(1 - p.validation_score, p.flops) for p in points]
    expected = hypervolume(right, Reference(0.25, 5, 1), ACCURACY)
    found = hypervolume(points, Reference(0.75, 5, 1), SHARE_OF_ERRORS)
    assert found == pytest.approx(expected)


def test_a_score_that_is_no_share_has_no_hypervolume():
    assert hypervolume([Measured(0.5, 1)], REFERENCE, ABSOLUTE_ERROR) is None
    assert Hypervolume(None, ACCURACY).value is None


def test_the_base_network_does_not_compete():
    networks = [outcome("a"), base_outcome(), outcome("b", origin="uniform")]
    assert [network.key for network in without_base(networks)] == ["a", "b"]
