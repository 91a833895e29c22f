"""The course of one job: its epochs one after the other, over any number of processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from search.training.checkpoints import Checkpoints
from search.training.trainer import EpochLoop, EpochReport, TrainingReport
from search.trials.jobs import EpochRecord, Stage

Sparsity = Callable[[], float | None]


class StagedTraining:
    """Trains stage after stage, and stores after every epoch how to go on from there.

    num_steps: epochs of all stages together, as far as is known before them.
    report: hears of every epoch once it is stored, and first of all that were before.
    stage: the number of the one to go on with.  notes: what finished stages left for later
        ones: tensors, numbers, strings and containers of them.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        num_steps: int,
        report: Callable[[list[EpochRecord]], None],
    ) -> None:
        self._checkpoints, self._report = checkpoints, report
        state = checkpoints.load() or {}
        self._num_steps: int = state.get("num_steps", num_steps)
        self.stage: int = state.get("stage", 0)
        self.notes: dict[str, Any] = state.get("notes", {})
        self.records = [EpochRecord(**record) for record in state.get("records", [])]
        self._number: int = state.get("number", 0)
        self._trainer: dict[str, Any] | None = state.get("trainer")
        checkpoints.attempts.begin(len(self.records))
        if self.records:
            report(list(self.records))

    def train(
        self,
        stage: Stage,
        trainer: EpochLoop,
        *,
        sparsity: Sparsity | None = None,
        after_epoch: Callable[[EpochReport], None] | None = None,
    ) -> TrainingReport:
        """The present stage, from where it was left. Its model is trained in place.

        after_epoch: may raise to stop; after a restart it hears of the last epoch again.
        """
        started = time.perf_counter()
        if self._trainer is not None:
            trainer.load_state_dict(self._trainer)
            if after_epoch is not None:
                after_epoch(trainer.reports[-1])

        def keep(report: EpochReport) -> None:
            images = self._images_before + report.images_seen
            record = EpochRecord(
                stage,
                len(self.records) + 1,
                self._num_steps,
                report.train_loss,
                report.validation_score,
                report.learning_rate,
                sparsity() if sparsity is not None else None,
                images=images,
                time_ms=time.time_ns() // 1_000_000,
            )
            self.records.append(record)
            self._trainer = trainer.state_dict()
            self._save()
            self._report([record])
            if after_epoch is not None:
                after_epoch(report)

        trainer.run(stage, keep)
        if trainer.step_note:
            self.notes["step_note"] = trainer.step_note
        return TrainingReport(trainer.reports, time.perf_counter() - started)

    def advance(self, notes: Mapping[str, Any], epochs_left: int | None = None) -> None:
        """The present stage is finished; what it left is added to the notes.

        epochs_left: of all later stages, where that is known better than at first.
        """
        self.notes |= notes
        if epochs_left is not None:
            self._num_steps = len(self.records) + epochs_left
        self.stage += 1
        self._trainer = None
        self._save()

    @property
    def record(self) -> dict[str, object]:
        """What a provenance says of how steps were taken: why a GPU ran them kernel by kernel."""
        note = self.notes.get("step_note")
        return {"steps": f"kernel by kernel: {note}"} if note else {}

    @property
    def images(self) -> int:
        """Training images that all stages have looked at so far, repetitions counted."""
        return self.records[-1].images if self.records else 0

    def curve(self, own: int, epochs_before: int) -> list[EpochRecord]:
        """The first `epochs_before` epochs and the last `own`, numbered without a gap."""
        first = max(epochs_before, len(self.records) - own)
        kept = self.records[:epochs_before] + self.records[first:]
        return [
            dataclasses.replace(record, step=step, num_steps=len(kept))
            for step, record in enumerate(kept, 1)
        ]

    @property
    def _images_before(self) -> int:
        """Images of the stages that are finished."""
        images: int = self.notes.get("images", 0)
        return images

    def _save(self) -> None:
        self._number += 1
        self._checkpoints.save(
            self._number,
            {
                "stage": self.stage,
                "notes": self.notes,
                "records": [dataclasses.asdict(record) for record in self.records],
                "number": self._number,
                "num_steps": self._num_steps,
                "trainer": self._trainer,
            },
        )
