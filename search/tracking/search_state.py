"""How a search stands, told from the events in its folder while it runs or afterwards.

The process of a search appends a line of JSON to EVENTS_FILE for everything that happens
(event_log.py). Whoever reads them, the service or a terminal, needs neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mlflow_server.append_log import open_file, whole_lines
from search.results.wall_time import WallTime
from search.tasks.score import ACCURACY, Direction, Score
from search.tracking.epoch_count import EpochCount
from search.trials.pareto import Hypervolume, Reference, best, without_base

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


@dataclass(frozen=True)
class NetworkSummary:
    """A network that was found, as far as a front needs it."""

    key: str
    origin: str
    flops: int
    params: int
    validation_score: float


@dataclass
class _Work:
    """One job that is under way, or was."""

    is_trial: bool
    state: str = "running"
    stage: str = "starting"
    images: int = 0
    validation_score: float | None = None


@dataclass
class SearchState:
    """Everything the events told so far."""

    kind: str = "search"
    num_trials: int = 0
    score: Score = ACCURACY
    lines: list[str] = field(default_factory=list)
    end: Event | None = None
    networks: dict[str, NetworkSummary] = field(default_factory=dict)
    _work: dict[str, _Work] = field(default_factory=dict)
    _launched_ms: int = 0
    _spent_ms: int = 0
    _now_ms: int = 0
    _epochs: EpochCount = field(default_factory=EpochCount)
    _volume: Hypervolume = field(default_factory=lambda: Hypervolume(None, ACCURACY))
    _wall: WallTime = field(default_factory=WallTime)

    def take(self, event: Event) -> None:
        """Let an event count; the same one twice counts once."""
        kind = event["event"]
        self._wall.take(event)
        if kind == "launched":
            self._spent_ms += max(0, self._now_ms - self._launched_ms)
        self._now_ms = int(event["time_ms"])
        if kind in ENDS:
            self.end = event
            return
        match kind:
            case "launched":
                self._launch(event)
            case "expected":
                self._epochs.expect(event["epochs"])
            case "started":
                self._work.setdefault(event["key"], _Work("proposal" in event["job"]))
                self._of(event).state = "running"
            case "epochs":
                self._count(event)
            case "scored":
                self._of(event).stage = f"{event['stage']} {event['done']} of {event['total']}"
            case "finished":
                self._finish(event)
            case "ended":
                self._of(event).state = event["state"]
                self._epochs.settle(event["key"], is_finished=False)

    def _of(self, event: Event) -> _Work:
        return self._work.setdefault(event["key"], _Work(is_trial=False))

    def _launch(self, event: Event) -> None:
        self.end = None
        self.lines = list(event["lines"])
        self.num_trials = event["trials"]
        self.kind, self._launched_ms = event.get("kind", "search"), self._now_ms
        self.score = Score.from_mapping(event.get("score"))
        self._measure_volume(event.get("reference"))
        self._epochs.begin(self._now_ms / 1000)
        for work in self._work.values():
            if work.state == "running":
                work.state = "waiting"

    def _measure_volume(self, reference: Mapping[str, float] | None) -> None:
        """From this far corner, of the networks that are known."""
        self._volume = Hypervolume(Reference(**reference) if reference else None, self.score)
        for network in without_base(self.networks.values()):
            self._volume.add(network)

    def _count(self, event: Event) -> None:
        work, records = self._of(event), event["records"]
        record = records[-1]
        is_replay = len(records) > 1
        self._epochs.count(event["key"], record["step"], record["num_steps"], is_replay=is_replay)
        work.stage, work.validation_score = record["stage"], record["validation_score"]
        work.images = max(work.images, record.get("images", 0))

    def _finish(self, event: Event) -> None:
        self._of(event).state = "finished"
        self._epochs.settle(event["key"], is_finished=True)
        for outcome in event["outcomes"]:
            names = ("key", "origin", "flops", "params", "validation_score")
            network = NetworkSummary(**{name: outcome[name] for name in names})
            self.networks[outcome["key"]] = network
            if network.origin != "base":
                self._volume.add(network)

    @property
    def num_epochs(self) -> int:
        """Epochs that are done, over all jobs."""
        return self._epochs.done

    @property
    def seconds_left(self) -> float | None:
        """By the pace since the last launch; None before there is anything to go by."""
        return None if self.end is not None else self._epochs.seconds_left(self._now_ms / 1000)

    def progress(self) -> dict[str, Any]:
        """JSON-able, for people who wait: see the service's description of `Progress`."""
        trials = {"planned": self.num_trials, "finished": 0, "running": 0, "waiting": 0}
        trials |= {"failed": 0, "stopped early": 0, "infeasible": 0}
        for work in self._work.values():
            if work.is_trial:
                trials[work.state] += 1
        networks = list(self.networks.values())
        base = next((f for f in networks if f.origin == "base"), None)
        rivals = networks if self.kind == "correlation" else without_base(networks)
        leading = best(rivals, self.score)
        return {
            "trials": trials,
            "networks": len(self.networks),
            "epochs": self.num_epochs,
            "expected_epochs": self.num_epochs + (0 if self.end else self._epochs.remaining),
            "best": None if leading is None else vars(leading),
            "base": None if base is None else vars(base),
            "hypervolume": self._volume.value,
            "images": sum(work.images for work in self._work.values()),
            "seconds_spent": (self._spent_ms + self._now_ms - self._launched_ms) / 1000,
            "seconds_left": self.seconds_left,
            "wall_seconds": self._wall.seconds,
            "running": [
                {
                    "key": key,
                    "stage": work.stage,
                    "step": self._epochs.steps(key)[0],
                    "num_steps": self._epochs.steps(key)[1],
                    "validation_score": work.validation_score,
                }
                for key, work in self._work.items()
                if work.state == "running"
            ],
        }
