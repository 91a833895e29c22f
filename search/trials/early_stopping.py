"""Successive halving by domination: trials that many others beat are stopped early.

Source of the rungs: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA),
algorithm 2, with a reduction factor of 2. By the score alone it would starve small networks, so
a trial's place on a rung is how many others there dominate it in score and FLOPs.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.errors import StoppedEarlyError
from search.storage.atomic_files import write_durably
from search.tasks.score import Score

_FACTOR = 2
_LEAST_SEEN = 2 * _FACTOR
"""Trials that must have come to a rung before anybody is stopped there."""

_SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the epochs before pruning, after which there is a rung."""


@dataclass(frozen=True)
class RungResult:
    """What a trial was worth on a rung, and what was decided.

    validation_score: of the network pruned to its target then.
    dominated_by: how many of the `seen` trials, itself among them, were better there.
    """

    key: str
    epoch: int
    validation_score: float
    flops: int
    dominated_by: int = 0
    seen: int = 1
    goes_on: bool = True


class Halving:
    """The rungs of one search, kept in a folder that every worker sees.

    epochs: of training before pruning, or of the first training where pruning comes first.
    score: what networks are compared by, beside FLOPs.
    """

    def __init__(self, folder: Path, epochs: int, score: Score) -> None:
        self._folder, self._score = folder, score
        rungs = {max(1, round(epochs * share)) for share in _SHARES}
        self.rungs = tuple(sorted(rung for rung in rungs if rung < epochs))

    def require_worth(self, key: str, epoch: int, value: float, flops: int) -> RungResult:
        """Record what trial `key` is worth; StoppedEarlyError if it is in the worse half.

        value: its score in validation, pruned to its target.

        A trial that nobody dominates always goes on. Asked again, as after a restart, the
        answer is that of the first time.
        """
        rung_result = self._rung_result(RungResult(key, epoch, value, flops))
        if not rung_result.goes_on:
            shown = self._score.text(rung_result.validation_score, 1)
            raise StoppedEarlyError(
                f"after epoch {epoch} {rung_result.dominated_by} of the other "
                f"{rung_result.seen - 1} trials dominated it in {self._score.name} and FLOPs "
                f"({shown} when pruned to its target)"
            )
        return rung_result

    def result(self, key: str, epoch: int) -> RungResult | None:
        """What was decided of trial `key` after this epoch; None if it has not come to that."""
        return _result(self._rows(epoch), key, epoch)

    def _rung_result(self, new: RungResult) -> RungResult:
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._file(new.epoch).with_suffix(".lock")):
            rows = self._rows(new.epoch)
            if (before := _result(rows, new.key, new.epoch)) is not None:
                return before
            rows = _joined(rows, new, self._score)
            stream = io.BytesIO()
            np.save(stream, rows, allow_pickle=False)
            write_durably(self._file(new.epoch), stream.getvalue())
        decided = _result(rows, new.key, new.epoch)
        assert decided is not None
        return decided

    def _rows(self, epoch: int) -> NDArray[Any]:
        """Everyone who came to the rung, in that order."""
        file = self._file(epoch)
        if file.exists():
            rows: NDArray[Any] = np.load(file, allow_pickle=False)
            return rows
        rows = np.zeros(0, _ROW)
        for stored in sorted(file.with_suffix("").glob("[!.]*.json")):  # of earlier versions
            result = RungResult(**json.loads(stored.read_text(encoding="utf-8")))
            rows = _joined(rows, result, self._score)
            decided = (result.dominated_by, result.seen, result.goes_on)
            rows[["decided_by", "seen", "goes_on"]][-1] = decided
        return rows

    def _file(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}.npy"


_ROW = np.dtype(
    [
        *(("key", "u8"), ("score", "f8"), ("flops", "i8"), ("dominated_by", "i8")),
        *(("decided_by", "i8"), ("seen", "i8"), ("goes_on", "?")),
    ]
)
"""Of one trial: the hash of its key, what it was worth, how many dominate it by now, and then, when
it was decided on. Everyone is counted anew with each that comes, so that nobody counts all."""


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One worker at a time: what two decide at once, neither would know of."""
    with file.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _joined(rows: NDArray[Any], new: RungResult, score: Score) -> NDArray[Any]:
    """With a trial that has come to the rung, and what is decided of it."""
    value, flops = score.key(new.validation_score), new.flops
    values = score.key(1.0) * rows["score"]
    is_equal = (values == value) & (rows["flops"] == flops)
    dominates_new = (values >= value) & (rows["flops"] <= flops) & ~is_equal
    rows["dominated_by"] += (values <= value) & (rows["flops"] >= flops) & ~is_equal
    count, seen = int(dominates_new.sum()), len(rows) + 1
    num_better = int((rows["dominated_by"] < count).sum())
    goes_on = count == 0 or seen < _LEAST_SEEN or num_better < seen / _FACTOR
    row = (_hash(new.key), new.validation_score, flops, count, count, seen, goes_on)
    return np.append(rows, np.array([row], _ROW))


def _result(rows: NDArray[Any], key: str, epoch: int) -> RungResult | None:
    places = np.flatnonzero(rows["key"] == _hash(key))
    if not len(places):
        return None
    row = rows[places[0]]
    return RungResult(
        key,
        epoch,
        float(row["score"]),
        int(row["flops"]),
        int(row["decided_by"]),
        int(row["seen"]),
        bool(row["goes_on"]),
    )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
