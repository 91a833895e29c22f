"""The course of one job: its epochs one after the other, over any number of processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from search.system.background_calls import BackgroundCalls
from search.training.checkpoints import Checkpoints, copied_off
from search.training.trainer import EpochLoop, EpochReport, TrainingReport
from search.trials.jobs import EpochRecord, Stage
from search.trials.told_epochs import ToldEpochs

Sparsity = Callable[[], float | None]


class StagedTraining:
    """Trains stage after stage, and stores how to go on from there.

    That is done at the end of every stage, and before more training than `every_seconds` could be
    lost; what was lost once is stored after every epoch when it is done again. States are copied
    and written by a thread, which has written the last one at the end of the `with` block.

    num_steps: epochs of all stages together, as far as is known before them.
    report: see search.trials.job_context.Report.
    stage: the number of the one to go on with.  notes: what finished stages left for later
        ones: tensors, numbers, strings and containers of them.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        num_steps: int,
        report: Callable[[list[EpochRecord]], None],
        every_seconds: float,
    ) -> None:
        self._report, self._every_seconds = report, every_seconds
        state = checkpoints.load() or {}
        self._num_steps: int = state.get("num_steps", num_steps)
        self.stage: int = state.get("stage", 0)
        self.notes: dict[str, Any] = state.get("notes", {})
        self.records = [EpochRecord(**record) for record in state.get("records", [])]
        self._number: int = state.get("number", 0)
        self._trainer: dict[str, Any] | None = state.get("trainer")
        self._told = ToldEpochs(checkpoints.folder, self.records)
        self._writer: BackgroundCalls[dict[str, Any]] = BackgroundCalls(
            lambda states: checkpoints.save(states[0]["number"], states[0]), most=1
        )
        self._stored_at = self._ended_at = time.monotonic()
        checkpoints.attempts.begin(len(self._told.records))
        if self._told.records:
            report(list(self._told.records))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(*(Exception,) * (error is not None)):  # the first error says more
            self._writer.flush()

    def train(
        self,
        stage: Stage,
        trainer: EpochLoop,
        compute: Callable[[], float],
        *,
        sparsity: Sparsity | None = None,
        after_epoch: Callable[[EpochReport], None] | None = None,
    ) -> TrainingReport:
        """The present stage, from where it was left. Its model is trained in place.

        compute: images × FLOPs that the trainer's epochs have taken so far.
        after_epoch: may raise to stop; after a restart it hears of the last epoch again.
        """
        started = self._ended_at = time.monotonic()
        if self._trainer is not None:
            trainer.load_state_dict(self._trainer)
            self._trainer = None
            if after_epoch is not None:
                after_epoch(trainer.reports[-1])
        before = compute()

        def keep(report: EpochReport) -> None:
            nonlocal before
            record = self._record(stage, report, sparsity() if sparsity is not None else None)
            record = dataclasses.replace(record, compute=compute() - before)
            before += record.compute
            self.records.append(record)
            with trainer.watch.during("checkpoint"):
                if self._is_due(record.step) or trainer.is_finished:
                    self._store(trainer.state_dict())
            with trainer.watch.during("report"):
                self._tell(record)
            if after_epoch is not None:
                after_epoch(report)

        trainer.run(stage, keep)
        if trainer.step_note:
            self.notes["step_note"] = trainer.step_note
        return TrainingReport(trainer.reports, time.monotonic() - started)

    def advance(self, notes: Mapping[str, Any], epochs_left: int | None = None) -> None:
        """The present stage is finished; what it left is added to the notes.

        epochs_left: of all later stages, where that is known better than at first.
        """
        self.notes |= notes
        if epochs_left is not None:
            self._num_steps = len(self.records) + epochs_left
        self.stage += 1
        self._trainer = None
        self._store(None)

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

    def _record(self, stage: Stage, report: EpochReport, sparsity: float | None) -> EpochRecord:
        """Of the epoch after the last one; with the time at which it first ended."""
        step, time_ms = len(self.records) + 1, time.time_ns() // 1_000_000
        if self._told.has(step):
            time_ms = self._told.records[step - 1].time_ms
        return EpochRecord(
            stage,
            step,
            self._num_steps,
            report.train_loss,
            report.validation_score,
            report.learning_rate,
            sparsity,
            images=self._images_before + report.images_seen,
            time_ms=time_ms,
            seconds=report.seconds,
        )

    def _is_due(self, step: int) -> bool:
        """Whether the next epoch, if it takes as long as this one, would end too late."""
        now = time.monotonic()
        longest = now - self._stored_at + now - self._ended_at
        self._ended_at = now
        return longest > self._every_seconds or self._told.has(step)

    def _tell(self, record: EpochRecord) -> None:
        if self._told.has(record.step):
            self._report([])
        else:
            self._told.add(record)
            self._report([record])

    def _store(self, trainer: dict[str, Any] | None) -> None:
        """trainer: the state of the present stage; None where it has not begun."""
        self._number += 1
        self._stored_at = time.monotonic()
        self._writer.put(
            copied_off(
                {
                    "stage": self.stage,
                    "notes": self.notes,
                    "records": [dataclasses.asdict(record) for record in self.records],
                    "number": self._number,
                    "num_steps": self._num_steps,
                    "trainer": trainer,
                }
            )
        )
