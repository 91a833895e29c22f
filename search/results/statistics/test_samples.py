"""What each sample of the test split adds to the score of a stored network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.storage.layout import TEST_SAMPLES_FILE
from search.trials.jobs import Outcome


class TestSamples:
    """Reads them from the folders of a search, each once.

    directory: the folder of the search; None where there is none to read from.
    """

    __test__ = False  # no test case, in spite of its name

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._known: dict[str, NDArray[np.generic] | None] = {}

    def of(self, outcome: Outcome) -> NDArray[np.generic] | None:
        """The terms of each sample, shape (N, k), in the order of the split; None if not known."""
        if outcome.path not in self._known:
            self._known[outcome.path] = self._read(outcome.path)
        return self._known[outcome.path]

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
