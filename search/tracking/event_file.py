"""The events of a search, which the process of a search appends to a file as they happen.

A line of JSON each (event_log.py). Whoever reads them needs neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mlflow_server.append_log import open_file, whole_lines
from search.tasks.score import Direction

Event = Mapping[str, Any]
"""One line: `event` says what happened, `time_ms` when, since 1970; the rest depends on it."""

ENDS = ("concluded", "failed", "interrupted")
"""The last event of a process that was not killed."""


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True)


class _Event(_Checked):
    event: str
    time_ms: int


class _Costs(_Checked):
    flops: int
    params: int


class _Score(_Checked):
    """See search.tasks.score.Score."""

    name: str
    direction: Direction
    is_share: bool
    counts_samples: bool


class _Reference(_Checked):
    """As search.trials.pareto.Reference; logs from before there were such have none."""

    score: float
    flops: float
    least_flops: float


class _Launched(_Event):
    """A process has begun or continued the search."""

    event: Literal["launched"]
    kind: Literal["search", "family", "correlation"] = "search"
    pid: int
    lines: list[str]
    trials: int
    base: _Costs
    limits: dict[str, float]
    score: _Score | None = None
    reference: _Reference | None = None


class _Expected(_Event):
    """How many epochs are still to come."""

    event: Literal["expected"]
    epochs: int


class _Started(_Event):
    event: Literal["started"]
    key: str
    job: dict[str, Any]


class _Record(_Checked):
    stage: str
    step: int
    num_steps: int
    validation_score: float | None
    images: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)


class _Epochs(_Event):
    """The newest, or after a restart all there are; see search.trials.jobs.EpochRecord."""

    event: Literal["epochs"]
    key: str
    records: Annotated[list[_Record], Field(min_length=1)]


class _Scored(_Event):
    """So many parts of a stage without epochs are done."""

    event: Literal["scored"]
    key: str
    stage: str
    done: int
    total: int


class _Outcome(_Costs):
    key: str
    origin: str
    validation_score: float


class _Finished(_Event):
    """See search.trials.jobs.Outcome."""

    event: Literal["finished"]
    key: str
    outcomes: Annotated[list[_Outcome], Field(min_length=1)]


class _Ended(_Event):
    """See search.trials.jobs.Ending."""

    event: Literal["ended"]
    key: str
    state: Literal["failed", "stopped early", "infeasible"]
    reason: str


class _Over(_Event):
    """Results and report are written, or the search can be continued."""

    event: Literal["concluded", "interrupted"]


class _Failed(_Event):
    """Nothing came of it."""

    event: Literal["failed"]
    reason: str


_EVENT: TypeAdapter[_Event] = TypeAdapter(
    Annotated[
        _Launched | _Expected | _Started | _Epochs | _Scored | _Finished | _Ended | _Over | _Failed,
        Field(discriminator="event"),
    ]
)


_HEAD_BYTES = 256
"""By these, which hold the time of the first event, one file is told from another."""


class EventFile:
    """The events of a search, read as they come, past everything that is none.

    offset: where reading goes on.  num_damaged: whole lines so far that are no events.
    """

    def __init__(self, file: Path, offset: int = 0) -> None:
        self.path, self.offset, self.num_damaged = file, offset, 0
        self._head = b""

    @property
    def damage(self) -> str:
        """What was passed over, in words; empty if nothing was."""
        lines = "1 line" if self.num_damaged == 1 else f"{self.num_damaged} lines"
        return f"{lines} of {self.path.name} cannot be read" if self.num_damaged else ""

    def is_another(self) -> bool:
        """Whether the file was replaced or cut short since it was read, which begins anew then."""
        try:
            with open_file(self.path) as stream:
                head, size = stream.read(_HEAD_BYTES), os.fstat(stream.fileno()).st_size
        except OSError:
            return False
        is_another = not head.startswith(self._head) or size < self.offset
        self._head = head
        if is_another:
            self.offset, self.num_damaged = 0, 0
        return is_another

    def marks(self) -> tuple[str, str]:
        """The first bytes, and the last before the offset: `resume` knows the file by them."""
        try:
            with open_file(self.path) as stream:
                head = stream.read(_HEAD_BYTES)
                stream.seek(max(0, self.offset - _HEAD_BYTES))
                tail = stream.read(min(self.offset, _HEAD_BYTES))
        except OSError:
            return "", ""
        return head.decode("latin-1"), tail.decode("latin-1")

    def resume(self, offset: int, num_damaged: int, marks: Sequence[str]) -> None:
        """Go on where another reader of this very file was; ValueError if it is another file."""
        before, self.offset = self.offset, offset
        (head, tail), (old_head, old_tail) = self.marks(), marks
        if not head.startswith(old_head) or not old_tail or tail != old_tail:
            self.offset = before
            raise ValueError(f"{self.path} is another file, or was cut short")
        self._head, self.num_damaged = old_head.encode("latin-1"), num_damaged

    def is_at_end(self) -> bool:
        """Whether there is nothing behind the offset; OSError where the file cannot be read."""
        with open_file(self.path) as stream:
            return os.fstat(stream.fileno()).st_size == self.offset

    def read(self) -> Iterator[Event]:
        """The events behind the offset, which moves along."""
        for _, line in self.lines():
            yield json.loads(line)

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """As `read`, but as they are in the file, each with what happened."""
        for line, end in whole_lines(self.path, self.offset):
            self.offset = end
            try:
                event = _EVENT.validate_json(line)
            except ValidationError:
                self.num_damaged += 1
            else:
                yield event.event, line
