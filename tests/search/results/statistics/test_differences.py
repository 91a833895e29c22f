"""Tests and intervals against their definitions, and how often they are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from search.results.statistics.differences import (
    LEVEL,
    Difference,
    bootstrap,
    holm,
    mcnemar,
    paired_by_seed,
    welch,
)
from search.tasks.score import Score

MEAN = Score("mean", sums="mean").of_sums


def right(total: int, *wrong: int) -> NDArray[np.bool_]:
    correct = np.ones(total, dtype=bool)
    correct[list(wrong)] = False
    return correct


def mean_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    return bootstrap(first[:, None], second[:, None], MEAN)


# ---- the same samples


def test_mcnemars_test_counts_the_samples_that_only_one_has_right() -> None:
    """P of a split as uneven as 1 to 6 of 7 fair coins, on either side."""
    first, second = right(100, 0, 50), right(100, 1, 2, 3, 4, 5, 6, 50)
    told = mcnemar(first, second)
    assert told.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert told.value == pytest.approx(0.05)
    assert told.test == "McNemar's exact test on the same 100 test samples"
    assert told.covers == "networks"


def test_the_interval_is_bonetts_and_prices() -> None:
    told = mcnemar(right(50, 0), right(50, 1, 2, 3))
    gain, loss = 4 / 52, 2 / 52
    margin = stats.norm.ppf(0.975) * math.sqrt((gain + loss - (gain - loss) ** 2) / 52)
    assert told.low == pytest.approx(gain - loss - margin)
    assert told.high == pytest.approx(gain - loss + margin)


def test_networks_that_agree_on_every_sample_do_not_differ() -> None:
    told = mcnemar(right(50, 3), right(50, 3))
    assert (told.value, told.p_value) == (0.0, 1.0)
    assert told.low is not None
    assert told.high is not None
    assert told.low < 0 < told.high


@pytest.mark.parametrize("test", [mcnemar, mean_difference])
def test_who_is_turned_is_told_the_same(test: Callable[..., Difference]) -> None:
    first, second = right(60, *range(5)), right(60, *range(3, 20))
    one, other = test(first, second), test(second, first)
    assert one.value == pytest.approx(-other.value)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.low == pytest.approx(-(other.high or 0), abs=1e-12)


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 400))
    told = bootstrap(first[:, None], second[:, None], MEAN)
    gaps = first - second
    assert told.value == pytest.approx(gaps.mean())
    error = gaps.std() / math.sqrt(400)
    assert told.high is not None
    assert told.low is not None
    assert (told.high - told.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert told.p_value == pytest.approx(2 * stats.norm.sf(abs(gaps.mean() / error)), abs=0.05)


def test_the_bootstrap_draws_the_same_samples_for_both() -> None:
    """What both share, however large, adds nothing to the interval."""
    generator = np.random.default_rng(2)
    shared = 100 * generator.normal(size=300)
    told = bootstrap((shared + 1)[:, None], shared[:, None], MEAN)
    assert told.low == pytest.approx(1)
    assert told.high == pytest.approx(1)


def test_the_bootstrap_takes_scores_that_are_no_means() -> None:
    """Intersection over union, of two classes, one of which nobody has."""
    score = Score("mean IoU", sums="mean of ratios")
    first = np.array([[4, 0, 8, 0], [6, 0, 8, 0]])
    second = np.array([[4, 0, 8, 0], [2, 0, 8, 0]])
    told = bootstrap(first, second, score.of_sums)
    assert told.value == pytest.approx(10 / 16 - 6 / 16)
    assert told.low == pytest.approx(0)
    assert told.high == pytest.approx(0.5)


def test_many_samples_are_drawn_in_bounded_memory() -> None:
    first = np.ones((5_000_000, 1), dtype=bool)
    assert mean_difference(first[:200, 0], first[:200, 0]).value == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.results.statistics.differences._CHUNK", 1000)
        assert mean_difference(right(90, 1), right(90, 2, 3)).value == pytest.approx(1 / 90)


# ---- seeds


def test_seeds_that_both_share_are_paired() -> None:
    first, second = (0.9, 0.8, 0.85), (0.88, 0.79, 0.82)
    told = paired_by_seed(first, second)
    assert told is not None
    assert told.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)
    gaps = np.subtract(first, second)
    margin = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / math.sqrt(3)
    assert told.high == pytest.approx(gaps.mean() + margin)
    assert (told.test, told.covers) == ("paired t-test over 3 seeds", "shapes")


def test_seeds_of_either_alone_are_compared_by_welch() -> None:
    """Against its definition: t = Δ/√(s₁²/n₁ + s₂²/n₂), Welch and Satterthwaite's degrees."""
    one, other = (0.90, 0.91, 0.92, 0.95), (0.86, 0.88, 0.87)
    shares = [np.var(sample, ddof=1) / len(sample) for sample in (one, other)]
    t = (np.mean(one) - np.mean(other)) / math.sqrt(sum(shares))
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / 3 + shares[1] ** 2 / 2)
    told = welch(one, other)
    assert told is not None
    assert told.p_value == pytest.approx(2 * stats.t.sf(t, freedom))
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(sum(shares))
    assert told.low == pytest.approx(np.mean(one) - np.mean(other) - margin)


@pytest.mark.parametrize(("one", "other"), [((0.9,), (0.8,)), ((0.9, 0.9), (0.8, 0.8))])
def test_single_runs_and_such_that_agree_by_accident_prove_nothing(one, other) -> None:
    assert welch(one, other) is None
    assert paired_by_seed(one, other) is None


# ---- many at once


def test_holm_multiplies_the_least_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([None, 0.02]) == [None, 0.02]
    assert holm([]) == []


@pytest.mark.slow
def test_false_findings_and_missed_ones_are_as_rare_as_promised() -> None:
    """Simulated: twelve contrasts against one network, all equal, and one truly 5 points better.

    The networks err on the same samples in part, as networks do. Without a difference, at least one
    of twelve may be found in 5 % of the searches at the most.
    """
    generator, searches, samples = np.random.default_rng(3), 400, 500

    def network(accuracy: float, hard: NDArray[np.float64]) -> NDArray[np.bool_]:
        own = generator.normal(size=samples)
        return np.asarray(0.7 * hard + math.sqrt(0.51) * own < stats.norm.ppf(accuracy))

    def found(first: float) -> float:
        number = 0
        for _ in range(searches):
            hard = generator.normal(size=samples)
            uniform = network(0.9, hard)
            rivals = [network(first, hard), *(network(0.9, hard) for _ in range(11))]
            adjusted = holm([mcnemar(rival, uniform).p_value for rival in rivals])
            number += any(p is not None and p < LEVEL for p in adjusted)
        return number / searches

    limit = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / searches)
    assert found(0.9) <= limit
    assert found(0.95) > 0.5
