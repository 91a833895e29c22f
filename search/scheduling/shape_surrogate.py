"""What a shape would be worth if it were trained from scratch, learned from those that were.

A Gaussian process over the cost of a shape, the directions in which the shapes to choose from
differ most, and what a short training has hinted of it. What counts is the gain in hypervolume that
is expected (Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by
Gaussian random field metamodels"); here the cost is known, so that it is a sum of expected
improvements.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from scipy import stats
    from sklearn import gaussian_process
    from sklearn.gaussian_process import kernels
else:
    stats, gaussian_process, kernels = lazy_modules(
        "scipy.stats", "sklearn.gaussian_process", "sklearn.gaussian_process.kernels"
    )

Floats = NDArray[np.float64]

_DIRECTIONS = 2
"""Of the differences between shapes: more could not be told apart from a dozen trainings."""


@dataclass(frozen=True)
class Described:
    """What is known of a shape before it is trained.

    shares: per group, the share of its channels that is left, in (0, ∞).
    flops: of a forward run.  hint: of a short training, in deviations from the mean of its rung.
    """

    shares: Mapping[str, float]
    flops: int
    hint: float = 0.0


class ShapeSurrogate:
    """Predicts scores, as `Score.key` has them: the higher the better.

    choices: shapes to choose from, at least one; what differs among them is what is looked at.
    """

    def __init__(self, choices: Sequence[Described], seed: int) -> None:
        self._names, self._seed = sorted({n for each in choices for n in each.shares}), seed
        logs = self._logs(choices)
        self._middle = logs.mean(axis=0)
        _, _, directions = np.linalg.svd(logs - self._middle, full_matrices=False)
        self._directions = directions[:_DIRECTIONS]
        features = self._features(choices)
        self._center, self._spread = features.mean(axis=0), features.std(axis=0)
        self._spread[self._spread == 0] = 1.0

    def predicted(
        self, known: Sequence[tuple[Described, float]], choices: Sequence[Described]
    ) -> tuple[Floats, Floats]:
        """Means and standard deviations of the scores of these shapes, given others' scores."""
        scores = np.array([score for _, score in known])
        kernel = kernels.ConstantKernel(1.0, (0.1, 10.0)) * kernels.RBF(
            np.ones(len(self._center)), (0.3, 30.0)
        ) + kernels.WhiteKernel(0.1, (1e-3, 1.0))
        process = gaussian_process.GaussianProcessRegressor(
            kernel, normalize_y=True, random_state=self._seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a length lies at the end of its range
            process.fit(self._standardised([shape for shape, _ in known]), scores)
            means, deviations = process.predict(self._standardised(choices), return_std=True)
        return means, deviations

    def _standardised(self, shapes: Sequence[Described]) -> Floats:
        standardised: Floats = (self._features(shapes) - self._center) / self._spread
        return standardised

    def _features(self, shapes: Sequence[Described]) -> Floats:
        logs = (self._logs(shapes) - self._middle) @ self._directions.T
        costs = np.log([max(shape.flops, 1) for shape in shapes])
        return np.column_stack([costs, [shape.hint for shape in shapes], logs])

    def _logs(self, shapes: Sequence[Described]) -> Floats:
        shares = [[each.shares.get(name, 1.0) for name in self._names] for each in shapes]
        return np.log(np.array(shares, dtype=np.float64).reshape(len(shapes), len(self._names)))


def expected_gain(
    flops: float,
    score: tuple[float, float],
    known: Sequence[tuple[float, float]],
    *,
    least_flops: float,
    most_flops: float,
    guessed: float,
) -> float:
    """The hypervolume that a network of these FLOPs is expected to add, at least 0.

    Score × natural logarithm of FLOPs, from `least_flops` up to `most_flops`.
    score: its mean and deviation, as `Score.key` has it.  known: FLOPs and scores of others.
    guessed: the score of a network that guesses.
    """
    mean, deviation = score
    flops = max(flops, least_flops)
    costs = sorted({flops, *(cost for cost, _ in known if flops < cost < most_flops), most_flops})
    cheaper = sorted(known, reverse=True)
    gain, best = 0.0, guessed
    for low, high in itertools.pairwise(costs):
        while cheaper and cheaper[-1][0] <= low:
            best = max(best, cheaper.pop()[1])
        length = math.log(high / max(low, 1.0))
        gain += length * _expected_improvement(mean, deviation, best)
    return gain


def _expected_improvement(mean: float, deviation: float, best: float) -> float:
    """By how much more than `best` a normally distributed score is, where it is more."""
    if deviation <= 0:
        return max(0.0, mean - best)
    z = (mean - best) / deviation
    return float((mean - best) * stats.norm.cdf(z) + deviation * stats.norm.pdf(z))
