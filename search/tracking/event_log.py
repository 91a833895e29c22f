"""The events of a search as lines in its folder, for those who watch it (event_file.py)."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from mlflow_server.append_log import AppendLog
from mlflow_server.errors import MlflowServerError
from pruning.errors import EspalierError
from search.storage.layout import EVENTS_FILE, StudyKind
from search.system.exit_status import may_pass
from search.tracking.event_file import Event
from search.tracking.search_summary import SummarisedEvents
from search.trials.job_context import JobContext
from search.trials.jobs import (
    Ending,
    EpochRecord,
    Job,
    Observer,
    Outcome,
    job_from_mapping,
    job_to_mapping,
)


class EventLog(Observer):
    """Appends to the file of a study. Used by the process that holds the study.

    kind: of the study.  num_trials: how many it will make.

    A line that a killed process left unfinished is cut off. The `with` block ends with the event
    that says how it went; an error that is not for people, like a kill, leaves it out.
    """

    def __init__(
        self, context: JobContext, kind: StudyKind = "search", num_trials: int = 0
    ) -> None:
        self._kind, self._num_trials = kind, num_trials
        self._file, self._context = context.directory / EVENTS_FILE, context
        self._descriptor = -1
        self._log: AppendLog | None = None

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._log = AppendLog(self._descriptor)
        self._summary = SummarisedEvents(self._file.parent)
        self._summary.catch_up()
        preflight = self._context.preflight
        self._say(
            "launched",
            kind=self._kind,
            pid=os.getpid(),
            lines=preflight.describe(),
            trials=self._num_trials,
            base={"flops": preflight.base.flops, "params": preflight.base.params},
            limits={bound.quantity: bound.value for bound in preflight.limits.bounds},
            score=preflight.score.to_mapping(),
            reference=dataclasses.asdict(preflight.reference),
        )
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._say_how_it_ends(error)
            with suppress(OSError):  # of a full disk: the events have it all
                self._summary.write()
        finally:
            os.close(self._descriptor)
            self._log = None

    def _say_how_it_ends(self, error: BaseException | None) -> None:
        if error is None:
            self._say("concluded")
        elif isinstance(error, KeyboardInterrupt):
            self._say("interrupted")
        elif isinstance(error, EspalierError | MlflowServerError):
            with suppress(OSError):  # of a full disk, say: what ended it matters more
                self._say("interrupted" if may_pass(error) else "failed", reason=str(error))

    def expect(self, epochs: int) -> None:
        """Tell how many epochs are still to come."""
        self._say("expected", epochs=epochs)

    def started(self, job: Job) -> None:
        self._say("started", key=job.key, job=job_to_mapping(job))

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        self._say("epochs", key=job.key, records=[dataclasses.asdict(r) for r in records])

    def scored(self, job: Job, stage: str, done: int, total: int) -> None:
        self._say("scored", key=job.key, stage=stage, done=done, total=total)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._say("finished", key=job.key, outcomes=[o.to_mapping() for o in outcomes])

    def ended(self, job: Job, ending: Ending) -> None:
        self._say("ended", key=job.key, state=ending.state, reason=ending.reason)

    def _say(self, event: str, **content: Any) -> None:
        assert self._log is not None
        told = {"event": event, "time_ms": time.time_ns() // 1_000_000, **content}
        self._summary.take(told, self._log.append(told))
        self._summary.write_now_and_then()


class Replay:
    """Tells an observer again what the events tell of."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._jobs: dict[str, Job] = {}

    def take(self, event: Event) -> None:
        """Pass an event on, if it is one of a job as this version knows them."""
        with suppress(KeyError, TypeError, ValueError):
            self._take(event)

    def _take(self, event: Event) -> None:
        kind, key = event["event"], event.get("key", "")
        if kind == "started":
            self._jobs[key] = job_from_mapping(event["job"])
            self._observer.started(self._jobs[key])
        elif key in self._jobs:
            job = self._jobs[key]
            if kind == "epochs":
                self._observer.epochs(job, [EpochRecord(**r) for r in event["records"]])
            elif kind == "scored":
                self._observer.scored(job, event["stage"], event["done"], event["total"])
            elif kind == "finished":
                outcomes = [Outcome.from_mapping(o) for o in event["outcomes"]]
                self._observer.finished(job, outcomes)
            elif kind == "ended":
                self._observer.ended(job, Ending(event["state"], event["reason"]))
