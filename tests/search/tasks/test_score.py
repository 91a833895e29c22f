"""How a score is named, compared and shown."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ABSOLUTE_ERROR, MEAN_IOU, SCORES

from pruning.errors import ConfigError
from search.tasks.score import ACCURACY, Score

ERROR_RATE = Score("error rate", "minimize")

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_the_key_rises_from_the_worst_to_the_best(one, other):
    assert (ACCURACY.key(one) > ACCURACY.key(other)) == (one > other)
    assert (ABSOLUTE_ERROR.key(one) > ABSOLUTE_ERROR.key(other)) == (one < other)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("accuracy", "accuracy"),
        ("mean IoU", "mean_iou"),
        ("R²", "r2"),
        ("mAP @ 0.5:0.95", "map_0_5_0_95"),
        ("précision", "precision"),
        ("精度", "score"),
    ],
)
def test_the_slug_is_of_letters_digits_and_underscores(name, slug):
    assert Score(name).slug == slug


@given(st.text(min_size=1).filter(lambda name: name.strip() and "\n" not in name))
def test_every_name_has_a_slug(name):
    slug = Score(name).slug
    assert slug.isascii()
    assert slug.replace("_", "a").isalnum()
    assert slug == slug.lower()


def test_shares_are_shown_in_percent_and_other_numbers_as_they_are():
    assert MEAN_IOU.text(0.98611) == "98.61%"
    assert MEAN_IOU.text(0.98611, 1) == "98.6%"
    assert ABSOLUTE_ERROR.text(0.0123456) == "0.01235"
    assert ABSOLUTE_ERROR.text(12.3456, 1) == "12.3"
    assert ABSOLUTE_ERROR.text(-3.0) == "-3"


def test_a_mean_has_its_deviation_where_there_is_one():
    assert MEAN_IOU.mean_text(0.986) == "98.6 %"
    assert MEAN_IOU.mean_text(0.986, 0.0021) == "98.6 ± 0.2 %"
    assert ABSOLUTE_ERROR.mean_text(0.123456, 0.00456) == "0.123 ± 0.00456"


def test_a_difference_is_in_points_where_scores_are_in_percent():
    assert MEAN_IOU.difference_text(0.004) == "0.4 points"
    assert MEAN_IOU.interval_text(0.004, -0.003, 0.01) == "+0.4 points [−0.3, +1.0]"
    assert ABSOLUTE_ERROR.difference_text(0.012) == "0.012"


@pytest.mark.parametrize(
    ("score", "difference", "text"),
    [
        (MEAN_IOU, -0.004, "−0.4 points"),
        (MEAN_IOU, 0.0126, "+1.3 points"),
        (MEAN_IOU, -0.0001, "±0.0 points"),
        (ERROR_RATE, -0.0126, "1.3 points worse"),
        (ABSOLUTE_ERROR, -0.0001, "0.0001 worse"),
        (ABSOLUTE_ERROR, 12.34, "12.3 better"),
        (ABSOLUTE_ERROR, 0.0, "±0"),
        (ABSOLUTE_ERROR, None, "–"),
    ],
)
def test_a_gain_is_told_by_its_sign_or_in_words(score: Score, difference: float | None, text: str):
    assert score.gain_text(difference) == text


def test_a_lower_error_is_a_gain():
    assert MEAN_IOU.gain(0.75, 0.5) == 0.25
    assert ABSOLUTE_ERROR.gain(0.75, 0.5) == -0.25


def test_an_axis_says_what_is_on_it_and_whether_in_percent():
    assert MEAN_IOU.axis("validation") == "validation mean IoU (%)"
    assert MEAN_IOU.plotted(0.5) == 50
    assert ABSOLUTE_ERROR.axis("test") == "test mean absolute error"
    assert ABSOLUTE_ERROR.plotted(0.5) == 0.5


def test_what_is_no_number_is_shown_as_that():
    assert [score.text(math.nan) for score in SCORES] == ["nan%", "nan%", "nan"]


@pytest.mark.parametrize("score", SCORES)
def test_a_score_survives_json(score):
    assert Score.from_mapping(json.loads(json.dumps(score.to_mapping()))) == score


@pytest.mark.parametrize("content", [None, {}])
def test_what_was_stored_without_a_score_is_accuracy(content):
    assert Score.from_mapping(content) is ACCURACY


def test_what_a_newer_version_adds_is_left_out():
    assert Score.from_mapping({**MEAN_IOU.to_mapping(), "unit": "of pixels"}) == MEAN_IOU


@pytest.mark.parametrize("name", ["", " ", "two\nlines", None])
def test_a_score_without_a_name_is_refused(name):
    with pytest.raises(ConfigError, match="name of a score must be one line"):
        Score(name)


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="maximize or minimize, got 'up'"):
        Score("mean IoU", "up")
