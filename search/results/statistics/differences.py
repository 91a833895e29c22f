"""How far apart two scores are, and what chance makes of that. Pure functions of numbers.

Each answers with the difference, a 95 % confidence interval and a two-sided p-value.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pruning.lazy_imports import lazy_modules

(scipy_stats,) = lazy_modules("scipy.stats")

LEVEL = 0.05
"""Of significance; intervals hold the true difference in all but this share of cases."""

_RESAMPLES = 2000
_CHUNK = 1 << 22
"""Numbers that are drawn at once, so that memory stays bounded."""


@dataclass(frozen=True)
class Difference:
    """Of two scores, the first minus the second.

    low, high: 95 % confidence interval, p_value: two-sided; None where nothing tells.
    test: what they come from, in words.  covers: whose chance that is: "networks" for these two
    trained networks on other samples, "shapes" for such networks trained again.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    test: str = ""
    covers: str = ""

    @property
    def is_told(self) -> bool:
        """Whether anything tells what chance would do."""
        return self.p_value is not None

    def turned(self) -> Difference:
        """The second minus the first."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, value=-self.value, low=low, high=high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Of two networks' accuracies on the same samples, each right or wrong, shape (N,).

    Exact McNemar test (McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", 1947): by the samples that only one of them has right. The interval
    is the adjusted Wald interval for paired proportions of Bonett and Price (2012).
    """
    count = len(first)
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    p_value = scipy_stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    gain, loss = (won + 1) / (count + 2), (lost + 1) / (count + 2)
    error = math.sqrt((gain + loss - (gain - loss) ** 2) / (count + 2))
    margin = float(scipy_stats.norm.isf(LEVEL / 2)) * error
    middle = gain - loss
    return Difference(
        (won - lost) / count,
        max(-1.0, middle - margin),
        min(1.0, middle + margin),
        float(p_value),
        f"McNemar's exact test on the same {count:,} test samples",
        "networks",
    )


def bootstrap(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    score: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
) -> Difference:
    """Of two networks' scores on the same samples, by the paired bootstrap over samples.

    first, second: the terms of each sample, shape (N, k).
    score: sums of terms over samples, (…, k), and their number → scores, (…).
    Both networks are drawn the same samples (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, ch. 13 and 16): the interval is that of percentiles. What is drawn is the
    same each time.
    """
    count = len(first)
    both = np.concatenate([first, second], axis=1).astype(np.float64)
    width = first.shape[1]

    def difference(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return score(sums[..., :width], count) - score(sums[..., width:], count)

    drawn = difference(_resampled_sums(both))
    low, high = np.quantile(drawn, (LEVEL / 2, 1 - LEVEL / 2))
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(
        float(difference(both.sum(0))),
        float(low),
        float(high),
        min(1.0, 2 * (tail + 1) / (len(drawn) + 1)),
        f"paired bootstrap over the same {count:,} test samples",
        "networks",
    )


def _resampled_sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over N samples drawn with replacement, shape (resamples, k)."""
    generator, count = np.random.default_rng(0), len(terms)
    at_once = max(1, _CHUNK // count)
    sums = []
    for start in range(0, _RESAMPLES, at_once):
        rows = min(at_once, _RESAMPLES - start)
        picked = generator.integers(count, size=(rows, count))
        offsets = np.arange(rows)[:, None] * count
        times = np.bincount((picked + offsets).ravel(), minlength=rows * count)
        sums.append(times.reshape(rows, count) @ terms)
    return np.concatenate(sums)


def paired_by_seed(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Of means over seeds that both share, in the same order: the paired t-test.

    None for fewer than two, or where all differences are the same, which proves nothing.
    """
    gaps = [one - other for one, other in zip(first, second, strict=True)]
    if not _scatters(gaps):
        return None
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    test = f"paired t-test over {len(gaps)} seeds"
    return _by_t(statistics.fmean(gaps), error, len(gaps) - 1, test)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Of means over seeds of either's own: Welch's t-test, with Satterthwaite's degrees of freedom.

    None for fewer than two of either, or where neither scatters.
    """
    if min(len(first), len(second)) < 2 or not (_scatters(first) or _scatters(second)):
        return None
    shares = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    total = sum(shares)
    freedom = total**2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, (first, second), strict=True)
    )
    value = statistics.fmean(first) - statistics.fmean(second)
    test = f"Welch's t-test over {len(first)} and {len(second)} seeds"
    return _by_t(value, math.sqrt(total), freedom, test)


def _by_t(value: float, error: float, freedom: float, test: str) -> Difference:
    """From a difference of means, its standard error and degrees of freedom."""
    margin = float(scipy_stats.t.isf(LEVEL / 2, freedom)) * error
    p_value = 2 * float(scipy_stats.t.sf(abs(value) / error, freedom))
    return Difference(value, value - margin, value + margin, p_value, test, "shapes")


def _scatters(values: Sequence[float]) -> bool:
    return len(values) > 1 and max(values) - min(values) > 1e-12


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each adjusted for all of them; None stays so and counts for nothing.

    Holm, "A simple sequentially rejective multiple test procedure" (1979): the chance that any
    true null hypothesis is rejected stays below the level, whatever depends on what.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted
