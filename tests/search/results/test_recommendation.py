"""What is recommended within each budget, by which numbers, and in which words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from samples import ABSOLUTE_ERROR, MEAN_IOU, base_outcome, outcome

from pruning import Budget, Cost
from search.results.contests import contests
from search.results.recommendation import (
    Recommendation,
    note,
    recommendations,
    share_text,
)
from search.results.statistics.test_samples import TestSamples
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome

BASE = Cost(10_000, 1000)
BASE_NETWORK = base_outcome(test_score=0.986)
WIDE, TIGHT = ("wide", Budget.parse("flops=5000")), ("tight", Budget.parse("flops=1000"))


class NestedErrors(TestSamples):
    """Of 400 samples, the worse network has all those wrong that the better one has."""

    def __init__(self) -> None:
        super().__init__(None)

    def of(self, outcome: Outcome) -> NDArray[np.bool_]:
        return (np.arange(400) < round(400 * outcome.test_score))[:, None]


def recommended(
    everything: Sequence[Outcome],
    rung: tuple[str, Budget] = WIDE,
    base: Outcome | None = BASE_NETWORK,
    samples: TestSamples | None = None,
    score: Score = ACCURACY,
) -> Recommendation:
    rivals = contests(everything, [rung], score)
    (entry,) = recommendations(rivals, everything, base, BASE, samples or NestedErrors())
    return entry


def tempered(number: int, validation: float, test: float, **changes: object) -> Outcome:
    settings: dict[str, object] = {"origin": "tempered", "flops": 500}
    scores = {"validation_score": validation, "test_score": test}
    return outcome(f"tempered-{number}", **(settings | scores | changes))


def test_the_sentence_says_what_to_take_and_what_it_gives_up():
    everything = [
        tempered(13, 0.99, 0.992),
        *(tempered(number, 0.98, 0.991) for number in range(12)),
        tempered(20, 0.5, 0.5),
        tempered(21, 0.4, 0.4),
        tempered(22, 0.999, 0.999, flops=5001),
    ]
    assert recommended(everything).text == (
        "Take tempered-13 within wide: 99.2 % (base 98.6 %: +0.8 points [−0.3, +1.8]) at 5 % of "
        "the FLOPs; "
        "12 of 14 others within chance of it."
    )


def test_validation_decides_and_test_never():
    everything = [tempered(0, 0.9, 0.1), tempered(1, 0.8, 1.0)]
    chosen = recommended(everything).chosen
    assert chosen is not None
    assert chosen.key == "tempered-0"


def test_of_equal_networks_the_cheaper_is_taken():
    dear = outcome("uniform-b100", origin="uniform", flops=900, validation_score=0.9)
    everything = [dear, tempered(1, 0.9, 0.9, flops=800), outcome(validation_score=0.9, flops=850)]
    chosen = recommended(everything).chosen
    assert chosen is not None
    assert chosen.key == "tempered-1"


def test_of_a_kind_what_was_repeated_is_taken_and_its_first_run_named():
    runs = [outcome("fine-tuned-0", test_score=0.4), outcome("fine-tuned-0-s1", test_score=0.6)]
    lucky = outcome("fine-tuned-1", validation_score=0.9)
    entry = recommended([*runs[::-1], lucky])
    assert entry.text.startswith(
        "Take fine-tuned-0 within wide: 40.0 % (base 98.6 %: −58.5 points [−63.1, −53.3]; 60.0 % "
        "in another run) at 10 % of the FLOPs"
    )
    assert entry.to_mapping()["architecture"] == "fine-tuned-0"


def test_who_is_ahead_by_more_than_chance_is_not_within_it():
    """Better or worse: the choice was made by validation, and is not made again."""
    everything = [tempered(0, 0.9, 0.5), tempered(1, 0.8, 0.9), tempered(2, 0.8, 0.51)]
    assert recommended(everything).text.endswith("; 1 of 2 others within chance of it.")
    assert recommended(everything[:2]).text.endswith("; the other one is not within chance of it.")


def test_a_lone_network_and_none_are_said_to_be():
    assert recommended([tempered(0, 0.9, 0.9)]).text.endswith("FLOPs; there is no other.")
    empty = recommended([tempered(0, 0.9, 0.9, flops=2000)], TIGHT)
    assert empty.chosen is None
    assert empty.text == "Nothing to take within tight."
    assert empty.to_mapping()["architecture"] is None


def test_a_base_network_that_was_not_trained_is_left_out():
    entry = recommended([tempered(0, 0.9, 0.9)], base=None)
    assert (
        entry.text == "Take tempered-0 within wide: 90.0 % at 5 % of the FLOPs; there is no other."
    )
    assert entry.to_mapping()["score_against_base"] is None


def test_the_base_network_is_named_where_the_budget_allows_it():
    within = "; the base network itself is within this budget."
    all_of_it = ("all", Budget.parse("flops=10k"))
    assert recommended([tempered(0, 0.9, 0.9)], all_of_it).text.endswith(within)
    assert recommended([tempered(0, 0.9, 0.9)], all_of_it, base=None).text.endswith(within)
    assert not recommended([tempered(0, 0.9, 0.9)]).text.endswith(within)


def test_machines_are_told_the_numbers():
    entry = recommended([tempered(0, 0.9, 0.95), tempered(1, 0.8, 0.95)])
    content = entry.to_mapping()
    assert entry.lost is not None
    assert json.loads(json.dumps(content)) == content
    assert content == {
        "budget": "wide",
        "text": entry.text,
        "architecture": "tempered-0",
        "origin": "tempered",
        "score": "accuracy",
        "validation_score": 0.9,
        "test_score": 0.95,
        "flops_share": 0.05,
        "base_test_score": 0.986,
        "score_against_base": pytest.approx(-0.036),
        "against_base_low": pytest.approx(entry.lost.low),
        "against_base_high": pytest.approx(entry.lost.high),
        "num_others": 1,
        "num_within_chance": 1,
        "num_untold": 0,
        "is_base_within": False,
    }


def test_the_note_says_what_the_choice_and_chance_rest_on():
    assert "Chosen by validation accuracy" in note(1234, ACCURACY)
    assert "on the same 1,234 test samples" in note(1234, ACCURACY)
    assert note(1234, MEAN_IOU) == (
        "Chosen by validation mean IoU; what is shown is test mean IoU, which chose nothing. What "
        "is chance is told by seeds, where there are several."
    )


def test_of_errors_the_least_is_taken():
    everything = [tempered(0, 0.5, 0.25), tempered(1, 0.25, 0.5), tempered(2, 0.75, 0.1)]
    base = base_outcome(test_score=0.375)
    entry = recommended(everything, base=base, score=ABSOLUTE_ERROR)
    assert entry.text == (
        "Take tempered-1 within wide: mean absolute error 0.5 (base 0.375) at 5 % of the FLOPs; "
        "nothing tells whether 2 others are within chance of it."
    )
    assert entry.to_mapping()["score_against_base"] == -0.125
    assert entry.to_mapping()["score"] == "mean absolute error"


def test_of_other_scores_only_seeds_tell_what_is_chance():
    """Without them a difference is neither within chance nor beyond it."""
    runs = (("", 0.8), ("-s1", 0.82), ("-s2", 0.81))
    chosen = [outcome(f"fine-tuned-0{s}", test_score=t) for s, t in runs]
    same = [outcome(f"fine-tuned-1{s}", test_score=t) for s, t in (("", 0.79), ("-s1", 0.84))]
    alone = [outcome("fine-tuned-2", test_score=0.1)]
    worse = [outcome(f"fine-tuned-3{s}", test_score=t) for s, t in (("", 0.2), ("-s1", 0.22))]
    chosen = [dataclasses.replace(run, validation_score=0.9) for run in chosen]
    entry = recommended([*chosen, *same, *alone, *worse], score=MEAN_IOU)
    assert entry.text.startswith(
        "Take fine-tuned-0 within wide: mean IoU 80.0 % (base 98.6 %; 81.5 ± 0.7 % in 2 other runs)"
    )
    assert entry.text.endswith("; 1 of 3 others within chance of it, of 1 nothing tells.")
    entry = recommended([*chosen, *alone], score=MEAN_IOU)
    assert entry.text.endswith("; nothing tells whether the other is within chance of it.")


def test_a_share_has_three_digits():
    assert [share_text(share) for share in (0.05, 0.12345, 1)] == ["5 %", "12.3 %", "100 %"]
