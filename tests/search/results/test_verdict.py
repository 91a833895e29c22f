"""Who competes within a budget, who is called the winner, by which test."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Sequence

import pytest
from samples import ABSOLUTE_ERROR, MEAN_IOU, outcome
from scipy import stats

from pruning import Budget
from search.results.verdict import (
    Comparison,
    Contest,
    Contestant,
    contestants,
    contests,
    short_name,
    verdict,
)
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome

RUNGS = (("wide", Budget.parse("flops=5000")), ("tight", Budget.parse("flops=1000")))


def seeds(
    key: str, accuracies: Sequence[float], validation: float = 0.5, **changes: object
) -> list[Outcome]:
    """One network, once per test accuracy."""
    return [
        outcome(
            f"{key}-s{number}" if number else key,
            test_score=accuracy,
            validation_score=validation,
            seed=number,
            **changes,
        )
        for number, accuracy in enumerate(accuracies)
    ]


def lone(key: str, accuracy: float, **changes: object) -> Contestant:
    return Contestant((outcome(key, test_score=accuracy, **changes),))


def verdict_of(everything: Sequence[Outcome], num_test: int = 400) -> list[str]:
    return verdict(contests(everything, RUNGS[:1], ACCURACY), everything, num_test, ACCURACY)


with_other_scores = pytest.mark.parametrize(
    ("score", "best", "worse"),
    [
        (MEAN_IOU, {"validation_score": 0.6, "test_score": 0.5}, {"test_score": 0.4}),
        (ABSOLUTE_ERROR, {"validation_score": 0.4, "test_score": 0.3}, {"test_score": 0.4}),
    ],
    ids=["mean IoU", "mean absolute error"],
)


# ---- contestants


def test_runs_that_differ_in_seeds_alone_are_one_contestant():
    tuned = seeds("fine-tuned-3", [0.8, 0.9, 0.7])
    tuned[1] = dataclasses.replace(tuned[1], profile="another", flops=1300, compute=50.0)
    others = [outcome("fine-tuned-3-t50"), outcome("fine-tuned-30")]
    found = contestants([tuned[0], *others, *tuned[1:]])
    assert [(c.key, c.num_seeds) for c in found] == [
        *(("fine-tuned-3", 3), ("fine-tuned-3-t50", 1), ("fine-tuned-30", 1)),
    ]
    assert found[0].test_score == pytest.approx(0.8)
    assert found[0].deviation == pytest.approx(statistics.stdev([0.8, 0.9, 0.7]))
    assert (found[0].flops, found[0].compute) == (1100, pytest.approx(50 / 3))
    assert found[0].score_text(ACCURACY) == "80.0 ± 10.0 %"
    assert (found[1].deviation, found[1].score_text(ACCURACY)) == (0, "50.0 %")


def test_equal_epochs_and_equal_compute_are_two_kinds():
    scratch = {"origin": "from-scratch", "trial": 0}
    equal = outcome("from-scratch-0", **scratch)
    longer = outcome("from-scratch-0-longer", **scratch, equal_compute=True)
    (contest,) = contests([longer, equal], RUNGS[:1], ACCURACY)
    assert {kind: entry.key for kind, entry in contest.entries.items()} == {
        "from-scratch": "from-scratch-0",
        "from-scratch-longer": "from-scratch-0-longer",
    }
    assert list(contest.entries) == ["from-scratch", "from-scratch-longer"]
    assert [short_name(entry) for entry in contest.entries.values()] == [
        *("from scratch, equal epochs", "from scratch, equal compute"),
    ]


def test_contestants_are_chosen_by_validation_never_by_test_accuracy():
    lucky = outcome("fine-tuned-2", trial=2, validation_score=0.5, test_score=1.0)
    steady = outcome("fine-tuned-3", trial=3, validation_score=0.6, test_score=0.1)
    (contest,) = contests([lucky, steady], RUNGS[:1], ACCURACY)
    assert contest.entries == {"fine-tuned": Contestant((steady,))}


def test_the_mean_over_seeds_chooses_not_the_best_of_them():
    steady = seeds("fine-tuned-0", [0.5] * 3, validation=0.6)
    shaky = [
        dataclasses.replace(run, validation_score=accuracy)
        for run, accuracy in zip(seeds("fine-tuned-1", [0.5] * 3), (0.9, 0.4, 0.4), strict=True)
    ]
    (contest,) = contests([*steady, *shaky], RUNGS[:1], ACCURACY)
    assert contest.entries["fine-tuned"].key == "fine-tuned-0"


def test_single_runs_do_not_compete_with_repeated_ones():
    """The best of many single runs is chosen for its luck."""
    (contest,) = contests(
        [outcome("fine-tuned-9", validation_score=0.99), *seeds("fine-tuned-0", [0.5, 0.5])],
        RUNGS[:1],
        ACCURACY,
    )
    assert contest.entries["fine-tuned"].key == "fine-tuned-0"


def test_every_run_of_a_contestant_is_within_the_budget():
    runs = seeds("fine-tuned-0", [0.5, 0.5], validation=0.9)
    runs[1] = dataclasses.replace(runs[1], flops=1001)
    wide, tight = contests([*runs, *seeds("fine-tuned-1", [0.5, 0.5])], RUNGS, ACCURACY)
    assert wide.entries["fine-tuned"].key == "fine-tuned-0"
    assert tight.entries["fine-tuned"].key == "fine-tuned-1"


def test_every_bound_of_a_budget_counts():
    both = Budget.parse("flops=5000", "params=50")
    fat, slim = outcome("fine-tuned-0"), outcome("fine-tuned-1", params=50, validation_score=0.1)
    (contest,) = contests([fat, slim], [("both", both)], ACCURACY)
    assert contest.entries == {"fine-tuned": Contestant((slim,))}


def test_of_equally_accurate_networks_the_cheaper_competes():
    dear, cheap = outcome("fine-tuned-0", flops=900), outcome("fine-tuned-1", flops=800)
    (contest,) = contests([dear, cheap], RUNGS[:1], ACCURACY)
    assert contest.entries["fine-tuned"] == Contestant((cheap,))


def test_an_origin_of_another_kind_of_search_is_let_in_last():
    (contest,) = contests(
        [outcome("w", origin="wrn"), outcome("u", origin="uniform")], RUNGS[:1], ACCURACY
    )
    assert list(contest.entries) == ["uniform", "wrn"]
    assert "a wrn shape" in verdict([contest], [], 100, ACCURACY)[0]


@with_other_scores
def test_the_best_by_the_scores_own_direction_competes_and_wins(score, best, worse):
    near, far = outcome(**best), outcome("fine-tuned-1", trial=1, **worse)
    uniform = outcome("uniform-b100", origin="uniform", trial=None, **worse)
    for everything in itertools.permutations([near, far, uniform]):
        (contest,) = contests(everything, RUNGS[:1], score)
        assert contest.entries["fine-tuned"].key == near.key
        assert contest.winner == contest.entries["fine-tuned"]
        assert [entry.key for entry in contest.ranking] == [near.key, uniform.key]


def test_a_contest_survives_json():
    (contest,) = contests(
        [*seeds("fine-tuned-0", [0.5, 0.6]), outcome("u", origin="uniform")],
        RUNGS[:1],
        ABSOLUTE_ERROR,
    )
    assert Contest.from_mapping(json.loads(json.dumps(dataclasses.asdict(contest)))) == contest


# ---- the test


A, B = (0.90, 0.91, 0.92), (0.86, 0.88, 0.87)


def compared(
    one: Sequence[float], other: Sequence[float], num_test: int = 400, score: Score = ACCURACY
) -> Comparison:
    first = Contestant(tuple(seeds("fine-tuned-0", one)))
    second = Contestant(tuple(seeds("uniform-b100", other, origin="uniform", trial=None)))
    return Comparison.of(first, second, num_test, score)


def test_several_seeds_are_compared_by_welchs_test():
    """Against its definition: t = Δ/√(s₁²/n₁ + s₂²/n₂), Welch and Satterthwaite's degrees."""
    one, other = (0.90, 0.91, 0.92, 0.95), (0.86, 0.88, 0.87)
    shares = [statistics.variance(sample) / len(sample) for sample in (one, other)]
    t = (statistics.mean(one) - statistics.mean(other)) / math.sqrt(sum(shares))
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / 3 + shares[1] ** 2 / 2)
    expected = 2 * stats.t.sf(t, freedom)
    assert compared(one, other).p_value == pytest.approx(expected)
    assert compared(other, one).p_value == pytest.approx(expected)


def test_seeds_that_differ_by_more_than_chance_have_a_winner():
    comparison = compared(A, B)
    assert comparison.is_clear
    p_value = stats.ttest_ind(A, B, equal_var=False).pvalue
    assert comparison.text() == (
        "pruned and fine-tuned won, 4.0 points ahead of the uniformly narrowed network "
        f"(Welch's t-test over 3 and 3 seeds, p = {p_value:.2g})"
    )


def test_seeds_that_scatter_have_none():
    comparison = compared((0.90, 0.99, 0.84), B)
    assert not comparison.is_clear
    assert comparison.text().startswith(
        "no difference beyond chance; pruned and fine-tuned is 4.0 points ahead of the uniformly"
    )


@pytest.mark.parametrize(
    ("one", "other"), [((0.9,), (0.8,)), (A, (0.8,)), ((0.9, 0.9), (0.8, 0.8))]
)
def test_without_deviations_the_binomial_error_decides(one, other):
    """2·√((a·(1 − a) + b·(1 − b)) / n); seeds that agree by accident prove nothing."""
    for num_test in (50, 400):
        comparison = compared(one, other, num_test)
        assert comparison.p_value is None
        a, b = statistics.mean(one), statistics.mean(other)
        margin = 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / num_test)
        assert comparison.margin == pytest.approx(margin)
        assert comparison.is_clear == (num_test == 400)
        assert f"(± two standard errors on {num_test} test images)" in comparison.text()
        assert f"{100 * (a - b):.1f} ± {100 * margin:.1f} points ahead" in comparison.text()


@pytest.mark.parametrize("score", [MEAN_IOU, ABSOLUTE_ERROR])
@pytest.mark.parametrize(
    ("one", "other"), [((0.9,), (0.2,)), (A, (0.2,)), ((0.9, 0.9), (0.2, 0.2))]
)
def test_without_seeds_nothing_is_said_of_chance_in_other_scores(score, one, other):
    """The binomial error is that of samples that are right or wrong."""
    comparison = compared(one, other, score=score)
    assert (comparison.p_value, comparison.margin) == (None, None)
    assert not comparison.is_clear
    text = comparison.text()
    assert "won" not in text
    assert "beyond chance" not in text
    assert "without several runs of both nothing tells what is chance" in text


def test_seeds_are_compared_by_welchs_test_whatever_the_score():
    errors = compared(A, B, score=ABSOLUTE_ERROR)
    assert errors.p_value == pytest.approx(compared(A, B).p_value)
    assert errors.first.origin == "uniform"
    assert errors.lead == pytest.approx(0.04)
    assert errors.text().startswith(
        "the uniformly narrowed network won, 0.04 ahead of pruned and fine-tuned (Welch's"
    )
    shares = compared(A, B, score=MEAN_IOU)
    assert shares.text().startswith("pruned and fine-tuned won, 4.0 points ahead of the uniformly")


def test_a_single_deviation_is_enough_for_welch():
    assert compared((0.9, 0.9, 0.9), B).p_value is not None


@pytest.mark.parametrize(
    ("computes", "told"),
    [
        ((2000, 1000), ", with 2 times the compute ("),
        ((1060, 1000), ", with 1.06 times the compute ("),
        ((500, 1000), ", with 0.5 times the compute ("),
        ((1049, 1000), None),
        ((960, 1000), None),
        ((0, 1000), None),
        ((1000, 0), None),
    ],
)
def test_compute_is_told_where_it_differs(computes, told):
    comparison = Comparison.of(
        lone("uniform-b100", 0.7, origin="uniform", compute=computes[1]),
        lone("fine-tuned-0", 0.9, compute=computes[0]),
        400,
        ACCURACY,
    )
    assert (told or "compute") in comparison.text() or told is None
    assert ("compute" in comparison.text()) == (told is not None)


# ---- the words


def test_the_uniform_network_comes_first_where_it_is_first():
    uniform = outcome("uniform-b100", origin="uniform", trial=None, test_score=0.9)
    first, *_ = verdict_of([uniform, outcome(test_score=0.8)])
    assert first.startswith("The uniformly narrowed network came first at 1 of 1 budgets")
    longer = dataclasses.replace(uniform, equal_compute=True)
    assert verdict_of([longer, outcome(test_score=0.8)])[0] == first


@pytest.mark.parametrize("accuracy", [0.7, 0.6])
def test_neither_a_tie_nor_a_second_place_is_a_victory(accuracy: float):
    uniform = outcome("uniform-b100", origin="uniform", trial=None, test_score=accuracy)
    for everything in itertools.permutations([uniform, outcome(test_score=0.7)]):
        lines = verdict_of(everything)
        assert lines[0].startswith("wide: ")
        assert "came first" not in " ".join(lines)


def test_each_shape_is_compared_both_ways():
    scratch = {"origin": "from-scratch", "trial": 0, "flops": 4000}
    lines = verdict_of(
        [
            *seeds("fine-tuned-0", A, flops=4000),
            *seeds("from-scratch-0", B, **scratch),
            outcome("from-scratch-0-longer", **scratch, equal_compute=True, test_score=0.99),
            outcome("from-scratch-1", origin="from-scratch", trial=1),
            outcome("fine-tuned-2", trial=2),
        ]
    )
    equal, longer = (line for line in lines if line.startswith("Shape of"))
    assert equal.startswith(
        "Shape of fine-tuned-0, 4k FLOPs: fine-tuned won, 4.0 points ahead of from scratch, equal "
        "epochs (Welch's t-test over 3 and 3 seeds, p = "
    )
    assert longer.startswith(
        "Shape of fine-tuned-0, 4k FLOPs: from scratch, equal compute won, 8.0 ± "
    )


def test_a_lone_kind_is_compared_with_nothing():
    assert verdict_of([outcome()])[0] == "wide: nothing to compare, just pruned and fine-tuned."
    assert verdict_of([])[0] == "wide: nothing to compare."


def test_the_last_line_says_how_much_was_run():
    assert verdict_of([outcome()])[-1].startswith("One training run each:")
    several = verdict_of([*seeds("fine-tuned-0", A), outcome("u", equal_compute=True)])[-1]
    assert several.startswith(
        "Up to 3 training runs each; a win is a difference at the level of 5 %"
    )
    assert "--compute-limit" in several
    assert "--compute-limit" not in verdict_of([outcome()])[-1]


@pytest.mark.parametrize(("images", "told"), [(1000, False), (1049, False), (500, True)])
def test_epochs_that_are_not_equal_are_told(images: int, told: bool):
    scratch = {"origin": "from-scratch", "trial": 0}
    everything = [
        outcome("fine-tuned-0", images=1000),
        outcome("from-scratch-0", images=images, **scratch),
        outcome("from-scratch-0-longer", images=9000, equal_compute=True, **scratch),
    ]
    last = verdict_of(everything)[-1]
    assert ("Epochs are not equal here" in last) == told
    assert ("saw 0.5 times the images" in last) == told
