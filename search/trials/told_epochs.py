"""Which epochs of a job were passed on, whoever performed it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mlflow_server.append_log import AppendLog, whole_lines
from search.trials.jobs import EpochRecord

_FILE = "epochs.jsonl"


class ToldEpochs:
    """The epochs that were passed on, in order, also those that no stored state has.

    folder: of the job.  stored: the epochs of the state that it goes on from. An epoch that is gone
    through again is not passed on again as if it were new.
    """

    def __init__(self, folder: Path, stored: Sequence[EpochRecord]) -> None:
        self._file = folder / _FILE
        self.records = list(stored)
        for record in self._written():
            if record.step == len(self.records) + 1:
                self.records.append(record)

    def has(self, step: int) -> bool:
        """Whether the epoch of this number, from 1, was passed on."""
        return step <= len(self.records)

    def add(self, record: EpochRecord) -> None:
        """Note an epoch, before it is passed on."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            AppendLog(descriptor).append(dataclasses.asdict(record))
        finally:
            os.close(descriptor)
        self.records.append(record)

    def _written(self) -> list[EpochRecord]:
        """Past lines that are damaged, and those of another version."""
        records = []
        for line, _ in whole_lines(self._file):
            try:
                records.append(EpochRecord(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return records
