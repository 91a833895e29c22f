"""Whether an ordering shows: of the paper's numbers, and of several seeds."""

from __future__ import annotations

import math

import pytest

from search.experiments.claims import Answer, mean_text, verdicts
from search.experiments.definition import Claim, Column, Experiment, Part, Row


def experiment(*claims: Claim, paper: tuple[float, float] = (91.0, 89.0)) -> Experiment:
    rows = tuple(Row(name, (number,)) for name, number in zip(("RNI", "L1"), paper, strict=True))
    return Experiment("t", "s", "a", columns=(Column("90 %"),), parts=(Part(rows),), claims=claims)


def answers(claim: Claim, rni: list[float], l1: list[float]) -> tuple[Answer, Answer, str]:
    cells = {("", "RNI", "90 %"): rni, ("", "L1", "90 %"): l1}
    (verdict,) = verdicts(experiment(claim), cells)
    return verdict.paper, verdict.here, verdict.detail


@pytest.mark.parametrize(
    ("rni", "l1", "here"),
    [
        ([91, 92, 93], [80, 81, 82], "yes"),
        ([91, 92, 93], [90, 92, 91], "within chance"),
        ([91], [80], "within chance"),  # one seed tells nothing of chance
        ([80, 81], [91, 92], "no"),
        ([80, 81], [80, 81], "no"),
        ([], [80, 81], "–"),
    ],
)
def test_an_ordering_shows_beyond_two_standard_errors(
    rni: list[float], l1: list[float], here: Answer
):
    assert answers(Claim("c", ("RNI",), ("L1",)), rni, l1)[:2] == ("yes", here)


def test_the_margin_is_two_standard_errors_of_the_difference():
    detail = answers(Claim("c", ("RNI",), ("L1",)), [1, 2, 3], [1, 1, 1])[2]
    assert detail == f"RNI − L1: 1.00 ± {2 * math.sqrt(1 / 3):.2f}"


def test_as_good_as_allows_a_little():
    claim = Claim("c", ("RNI",), ("L1",), within=3)
    assert answers(claim, [90, 90.2], [91, 91.2])[1] == "yes"
    assert answers(claim, [87, 87.2], [91, 91.2])[1] == "no"


@pytest.mark.parametrize(("within", "here"), [(0, "no"), (3, "yes"), (2.2, "within chance")])
def test_a_row_may_be_held_against_another_of_its_own_numbers(within: float, here: Answer):
    columns = (Column("accuracy"), Column("base"))
    rows = (Row("CIFAR", (89.0, 91.0)), Row("digits"))
    claim = Claim("c", ("digits",), column="accuracy", over="base", within=within)
    made = Experiment("t", "s", "a", columns=columns, parts=(Part(rows),), claims=(claim,))
    cells = {("", "digits", "accuracy"): [96, 96.2], ("", "digits", "base"): [98, 98.2]}
    (verdict,) = verdicts(made, cells)
    assert (verdict.paper, verdict.here) == ("–", here)
    assert verdict.detail == "digits, accuracy − base: -2.00 ± 0.28"


def test_what_the_paper_does_not_show_itself_is_said():
    claim = Claim("c", ("L1",), ("RNI",))
    assert answers(claim, [1, 2], [1, 2])[0] == "no"


@pytest.mark.parametrize(
    ("here", "decimals", "expected"),
    [(25.187, 2, "yes"), (25.199, 2, "yes"), (25.184, 2, "no"), (25.2, 0, "yes"), (26.4, 0, "no")],
)
def test_exact_is_what_the_paper_prints_rounded_or_cut_off(
    here: float, decimals: int, expected: Answer
):
    printed = 25.19 if decimals else 25
    rows = (Row("UCS", (printed,)),)
    claim = Claim("c", ("UCS",), exact=True)
    made = Experiment(
        *("t", "s", "a"), columns=(Column("c", decimals=decimals),), parts=(Part(rows),),
        claims=(claim,),
    )  # fmt: skip
    (verdict,) = verdicts(made, {("", "UCS", "c"): [here]})
    assert verdict.here == expected


def test_a_mean_has_its_deviation_unless_it_is_of_one():
    assert mean_text([1.0, 3.0], 1) == "2.0 ± 1.4"
    assert mean_text([1.0], 1) == "1.0"
    assert mean_text([], 1) == "–"
