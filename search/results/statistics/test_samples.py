"""What each sample of the test split adds to the score of a stored network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.results.statistics.differences import Difference, bootstrap, mcnemar
from search.storage.layout import TEST_SAMPLES_FILE
from search.tasks.score import Score
from search.trials.jobs import Outcome


class TestSamples:
    """Reads them from the folders of a search, each once, and compares networks by them.

    directory: the folder of the search; None where there is none to read from.
    known: differences that are known without it, as `differences` gave them.
    """

    __test__ = False  # no test case, in spite of its name

    def __init__(self, directory: Path | None, known: Sequence[Mapping[str, Any]] = ()) -> None:
        self._directory = directory
        self._terms: dict[str, NDArray[np.generic] | None] = {}
        self._differences = {
            (entry["first"], entry["second"]): Difference(**entry["difference"]) for entry in known
        }

    @property
    def differences(self) -> list[dict[str, Any]]:
        """JSON-able: every pair that was compared, and what came of it."""
        return [
            {"first": first, "second": second, "difference": asdict(told)}
            for (first, second), told in self._differences.items()
        ]

    def difference(self, first: Outcome, second: Outcome, score: Score) -> Difference | None:
        """How much better the first one's score is on the samples; None where they do not tell.

        Exactly, where samples are right or wrong, otherwise by the bootstrap.
        """
        pair = first.key, second.key
        if pair not in self._differences:
            told = self._compared(first, second, score)
            if told is None:
                return None
            self._differences[pair] = told
        return self._differences[pair]

    def _compared(self, first: Outcome, second: Outcome, score: Score) -> Difference | None:
        one, other = self.of(first), self.of(second)
        if one is None or other is None or one.shape != other.shape or not score.sums:
            return None
        if score.counts_samples:
            told = mcnemar(one[:, 0].astype(np.bool_), other[:, 0].astype(np.bool_))
        else:
            told = bootstrap(one, other, score.of_sums)
        return told if score.direction == "maximize" else told.turned()

    def of(self, outcome: Outcome) -> NDArray[np.generic] | None:
        """The terms of each sample, shape (N, k), in the order of the split; None if not known."""
        if outcome.path not in self._terms:
            self._terms[outcome.path] = self._read(outcome.path)
        return self._terms[outcome.path]

    def _read(self, path: str) -> NDArray[np.generic] | None:
        if self._directory is None or not path:
            return None
        try:
            terms = np.load(self._directory / path / TEST_SAMPLES_FILE, allow_pickle=False)
        except (OSError, EOFError, ValueError):
            return None
        is_table = isinstance(terms, np.ndarray) and terms.ndim == 2 and len(terms) > 0
        return terms if is_table else None


NO_SAMPLES = TestSamples(None)
"""Where only results are at hand."""
