"""Who competes within a budget, and who is first."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence

import pytest
from samples import ABSOLUTE_ERROR, MEAN_IOU, outcome

from pruning import Budget
from search.results.contests import (
    Contest,
    Contestant,
    contestants,
    contests,
    in_words,
    short_name,
)
from search.tasks.score import ACCURACY
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
    assert [(c.key, c.num_judged) for c in found] == [
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
    assert contest.entries == {"fine-tuned": Contestant((steady,), is_selected=True)}


def test_the_first_run_is_chosen_and_the_others_tell_what_it_is_worth():
    shaky = [
        dataclasses.replace(run, validation_score=validation)
        for run, validation in zip(
            seeds("fine-tuned-1", [0.9, 0.4, 0.5], flops=900), (0.9, 0.4, 0.4), strict=True
        )
    ]
    steady = seeds("fine-tuned-0", [0.5] * 3, validation=0.6)
    (contest,) = contests([*steady, *reversed(shaky)], RUNGS[:1], ACCURACY)
    entry = contest.entries["fine-tuned"]
    assert (entry.key, entry.validation_score, entry.num_judged) == ("fine-tuned-1", 0.9, 2)
    assert entry.test_score == pytest.approx(0.45)
    assert contest.tries == {"fine-tuned": 2}
    (contest,) = contests(shaky, RUNGS[:1], ACCURACY)
    assert contest.entries["fine-tuned"].num_judged == 3
    assert contest.tries == {"fine-tuned": 1}


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
    assert contest.entries["fine-tuned"] == Contestant((cheap,), is_selected=True)


def test_an_origin_of_another_kind_of_search_is_let_in_last():
    (contest,) = contests(
        [outcome("w", origin="wide"), outcome("u", origin="uniform")], RUNGS[:1], ACCURACY
    )
    assert list(contest.entries) == ["uniform", "wide"]
    assert in_words(contest.entries["wide"]) == "a wide shape"


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
