"""How often a search's comparisons find what is not there, and how often what is.

    python benchmarks/verdict_errors.py        # a minute, one core, no training

Networks are simulated by what they have right among the samples of a test split: they err on the
same hard samples in part, as networks do. A search compares KINDS kinds, each the best of TRIES by
validation, with the uniform network. Where all are equally good, anything that is found is false;
where one kind is better, finding it is right. Beside the contrasts of the verdict stands what it
said before: the best kind against the runner-up by two binomial errors of independent samples.
Writes benchmarks/results/verdict_errors.md.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from search.results.statistics.differences import LEVEL, holm, mcnemar, welch

RESULTS = Path(__file__).parent / "results" / "verdict_errors.md"
KINDS, TRIES, ACCURACY, GAINS = 9, 6, 0.97, (0.0, 0.01, 0.02)
SHARED, SEED_DEVIATION, NUM_SEEDS = 0.8, 0.004, 4
"""How much of what decides over a sample networks share; of accuracy between seeds; runs each."""

Bits = NDArray[np.bool_]


class Simulated:
    """A data set of so many test samples, and networks of any accuracy on it."""

    def __init__(
        self, samples: int, generator: np.random.Generator, deviation: float = SEED_DEVIATION
    ) -> None:
        self._samples, self._generator, self._deviation = samples, generator, deviation
        self._test, self._validation = generator.normal(size=(2, samples))

    def network(self, accuracy: float) -> tuple[Bits, float]:
        """What it has right in the test split, and its accuracy in validation; one seed's luck."""
        true = min(0.999, accuracy + self._generator.normal(0, self._deviation))
        easy = stats.norm.ppf(true)
        own = self._generator.normal(size=(2, self._samples)) * math.sqrt(1 - SHARED)
        test, validation = (
            math.sqrt(SHARED) * hard + noise < easy
            for hard, noise in zip((self._test, self._validation), own, strict=True)
        )
        return test, float(validation.mean())

    def best(self, accuracy: float) -> Bits:
        """Of TRIES networks, the best in validation."""
        return max((self.network(accuracy) for _ in range(TRIES)), key=lambda made: made[1])[0]


def contrasts(data: Simulated, gain: float) -> list[bool]:
    """Kind by kind, whether it is found to differ from uniform; the first is truly better."""
    uniform, _ = data.network(ACCURACY)
    rivals = [data.best(ACCURACY + gain), *(data.best(ACCURACY) for _ in range(KINDS - 1))]
    adjusted = holm([mcnemar(rival, uniform).p_value for rival in rivals])
    return [p is not None and p < LEVEL for p in adjusted]


def over_seeds(data: Simulated, gain: float) -> list[bool]:
    """The same by runs with further seeds, which chose nothing."""
    accuracies = [ACCURACY + gain, *[ACCURACY] * (KINDS - 1)]
    uniform, *rivals = (
        [float(data.network(accuracy)[0].mean()) for _ in range(NUM_SEEDS)]
        for accuracy in (ACCURACY, *accuracies)
    )
    told = [welch(rival, uniform) for rival in rivals]
    adjusted = holm([difference and difference.p_value for difference in told])
    return [p is not None and p < LEVEL for p in adjusted]


def runner_up(data: Simulated, gain: float) -> list[bool]:
    """What was said before: whether the first in test is clearly ahead of the second."""
    rivals = [data.best(ACCURACY + gain), *(data.best(ACCURACY) for _ in range(KINDS - 1))]
    scores = [float(bits.mean()) for bits in (*rivals, data.network(ACCURACY)[0])]
    first, second = sorted(range(len(scores)), key=lambda place: -scores[place])[:2]
    count = len(rivals[0])
    error = math.sqrt(sum(scores[p] * (1 - scores[p]) for p in (first, second)) / count)
    is_clear = scores[first] - scores[second] > 2 * error
    return [is_clear and place == first for place in range(KINDS)]


_EQUAL = "each kind against uniform, McNemar, Holm; no luck of seeds"

Rule = Callable[[Simulated, float], list[bool]]
RULES: dict[str, Rule] = {
    _EQUAL: contrasts,
    "each kind against uniform, McNemar, Holm": contrasts,
    f"the same over {NUM_SEEDS} seeds each, Welch, Holm": over_seeds,
    "before: first against second, two binomial errors": runner_up,
}


def measured(rule: Rule, gain: float, samples: int, searches: int, deviation: float) -> float:
    """Share of searches that find something; with a gain, that find the better kind."""
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(searches):
        told = rule(Simulated(samples, generator, deviation), gain)
        found += told[0] if gain else any(told)
    return found / searches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--samples", type=int, nargs="+", default=[450, 10_000])
    arguments = parser.parse_args()
    rows = []
    for samples in arguments.samples:
        for name, rule in RULES.items():
            deviation = 0.0 if name == _EQUAL else SEED_DEVIATION
            shares = [
                measured(rule, gain, samples, arguments.searches, deviation) for gain in GAINS
            ]
            cells = " | ".join(
                f"{100 * s:.1f} ± {100 * math.sqrt(s * (1 - s) / arguments.searches):.1f}"
                for s in shares
            )
            rows.append(f"| {samples:,} | {name} | {cells} |")
            print(rows[-1], flush=True)
    gains = " | ".join(f"finds {100 * gain:g} points" for gain in GAINS[1:])
    RESULTS.write_text(
        "\n".join(
            [
                "# How often comparisons are wrong\n",
                f"`python benchmarks/verdict_errors.py --searches {arguments.searches}`, Python "
                f"{platform.python_version()}, scipy {version('scipy')}, numpy "
                f"{version('numpy')}; no training: networks are simulated by what they have right. "
                f"{arguments.searches} searches a cell, % of them ± standard error. {KINDS} kinds, "
                f"each the best of {TRIES} by validation, against the uniform network, all of "
                f"accuracy {ACCURACY:g} but for the gain of one; seeds deviate by "
                f"{100 * SEED_DEVIATION:g} points.\n",
                f"| test samples | rule | finds what is not there | {gains} |",
                "| --- | --- | --- | --- | --- |",
                *rows,
                "",
                "McNemar's test is of the two networks, not of their shapes. Where seeds bring no "
                "luck (first row), it keeps its promise; where they do, it finds, rightly, that "
                "two trainings of equal shapes came out unequal, and with many samples it finds "
                "nearly all of that. So verdicts of single runs say `better network`, and "
                "`--seeds` is needed to say that a shape is better.\n",
            ]
        )
    )


if __name__ == "__main__":
    main()
