"""Successive halving by domination: trials that many others beat are stopped early.

Source of the rungs: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA),
algorithm 2, with a reduction factor of 2. By the score alone it would starve small networks, so
a trial's place on a rung is how many others there dominate it in score and FLOPs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pruning.errors import StoppedEarlyError
from search.storage.atomic_files import write_durably
from search.tasks.score import Score
from search.trials.pareto import dominates

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

    def _rung_result(self, new: RungResult) -> RungResult:
        seen = self._seen(new.epoch)
        for before in seen:
            if before.key == new.key:
                return before
        decided = _decided(new, seen, self._score)
        file = self._rung(new.epoch) / f"{new.key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, json.dumps(asdict(decided)).encode())
        return decided

    def _seen(self, epoch: int) -> list[RungResult]:
        files = sorted(self._rung(epoch).glob("[!.]*.json"))
        return [RungResult(**json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def _rung(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}"


def _decided(new: RungResult, others: Sequence[RungResult], score: Score) -> RungResult:
    everyone = [*others, new]
    dominated_by = [sum(dominates(other, one, score) for other in everyone) for one in everyone]
    own_count = dominated_by[-1]
    num_better = sum(count < own_count for count in dominated_by)
    goes_on = own_count == 0 or len(everyone) < _LEAST_SEEN or num_better < len(everyone) / _FACTOR
    return replace(new, dominated_by=own_count, seen=len(everyone), goes_on=goes_on)
