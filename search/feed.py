"""The events of a search as lines in its folder, for those who watch it: see search.standing."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

from pruning.errors import EspalierError
from search.standing import FEED_FILE, Event
from search.tasks import (
    Ending,
    EpochRecord,
    Observer,
    Outcome,
    Task,
    task_from_mapping,
    task_to_mapping,
)
from search.workshop import Workshop


class Feed:
    """Appends to the file; an observer of the search. Used by the process that holds the search.

    A line that a killed process left unfinished is cut off. The `with` block ends with the event
    that says how it went; an error that is not for people, like a kill, leaves it out.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._file, self._workshop = workshop.directory / FEED_FILE, workshop
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Self:
        _cut_torn_line(self._file)
        self._stream = self._file.open("ab", buffering=0)
        preflight = self._workshop.preflight
        self._say(
            "launched",
            pid=os.getpid(),
            lines=preflight.describe(),
            trials=self._workshop.config.trials,
            base={"flops": preflight.base.flops, "params": preflight.base.params},
            limits={bound.quantity: bound.value for bound in preflight.limits.bounds},
        )
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._stream is not None
        try:
            if error is None:
                self._say("concluded")
            elif isinstance(error, EspalierError):
                self._say("failed", reason=str(error))
            elif isinstance(error, KeyboardInterrupt):
                self._say("interrupted")
        finally:
            self._stream.close()

    def expect(self, epochs: int) -> None:
        """Tell how many epochs are still to come."""
        self._say("expected", epochs=epochs)

    def started(self, task: Task) -> None:
        self._say("started", key=task.key, task=task_to_mapping(task))

    def epochs(self, task: Task, records: Sequence[EpochRecord]) -> None:
        self._say("epochs", key=task.key, records=[dataclasses.asdict(r) for r in records])

    def finished(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        self._say("finished", key=task.key, outcomes=[o.to_mapping() for o in outcomes])

    def ended(self, task: Task, ending: Ending) -> None:
        self._say("ended", key=task.key, state=ending.state, reason=ending.reason)

    def _say(self, event: str, **content: Any) -> None:
        assert self._stream is not None
        line = {"event": event, "time_ms": time.time_ns() // 1_000_000, **content}
        self._stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _cut_torn_line(file: Path) -> None:
    if file.exists():
        content = file.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(file, content.rfind(b"\n") + 1)


class Replay:
    """Tells an observer again what the events tell of."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._tasks: dict[str, Task] = {}

    def take(self, event: Event) -> None:
        """Pass an event on, if it is one of a task."""
        kind, key = event["event"], event.get("key", "")
        if kind == "started":
            self._tasks[key] = task_from_mapping(event["task"])
            self._observer.started(self._tasks[key])
        elif key in self._tasks:
            task = self._tasks[key]
            if kind == "epochs":
                self._observer.epochs(task, [EpochRecord(**r) for r in event["records"]])
            elif kind == "finished":
                outcomes = [Outcome.from_mapping(o) for o in event["outcomes"]]
                self._observer.finished(task, outcomes)
            elif kind == "ended":
                self._observer.ended(task, Ending(event["state"], event["reason"]))
