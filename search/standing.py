"""How a search stands, told from the events in its folder while it runs or afterwards.

The process of a search appends a line of JSON to FEED_FILE for everything that happens
(search.feed). Whoever reads them, the service or a terminal, needs neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.pareto import hypervolume

CONFIG_FILE, RESULTS_FILE, FEED_FILE = "search.json", "results.json", "events.jsonl"
"""In the folder of a search: what was asked for, what came of it, and what happened."""

Event = Mapping[str, Any]
"""One line: `event` says what happened, `time_ms` when, since 1970; the rest depends on it.

    launched     pid, lines, trials, base, limits   a process has begun or continued the search
    expected     epochs                      that are still to come
    started      key, task
    epochs       key, records                see EpochRecord; after a restart all there are
    finished     key, outcomes               see Outcome
    ended        key, state, reason          see Ending
    concluded                                results and report are written
    failed       reason                      nothing came of it
    interrupted                              it can be continued
"""

ENDS = ("concluded", "failed", "interrupted")
"""The last event of a process that was not killed."""


def read_events(file: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """The events from byte `offset` on, each with the offset behind it; of whole lines only."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        return
    with stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield json.loads(line), offset


@dataclass(frozen=True)
class Found:
    """A network that was found, as far as a front needs it."""

    key: str
    origin: str
    flops: int
    params: int
    validation_accuracy: float


@dataclass
class _Work:
    """One task that is under way, or was."""

    is_trial: bool
    state: str = "running"
    stage: str = "starting"
    step: int = 0
    num_steps: int = 1
    validation_accuracy: float | None = None


@dataclass
class Standing:
    """Everything the events told so far."""

    num_trials: int = 0
    base_flops: int = 0
    lines: list[str] = field(default_factory=list)
    end: Event | None = None
    found: dict[str, Found] = field(default_factory=dict)
    _work: dict[str, _Work] = field(default_factory=dict)
    _launched_ms: int = 0
    _now_ms: int = 0
    _new_epochs: int = 0
    _expected: int = 0
    _best_volume: float = 0.0

    def take(self, event: Event) -> None:
        """Let an event count; the same one twice counts once."""
        self._now_ms = int(event["time_ms"])
        kind = event["event"]
        if kind in ENDS:
            self.end = event
            return
        match kind:
            case "launched":
                self._launch(event)
            case "expected":
                self._expected = self._new_epochs + event["epochs"]
            case "started":
                self._work.setdefault(event["key"], _Work("proposal" in event["task"]))
                self._of(event).state = "running"
            case "epochs":
                self._epochs(event)
            case "finished":
                self._finish(event)
            case "ended":
                work = self._of(event)
                work.state = event["state"]
                self._expected -= max(0, work.num_steps - work.step)

    def _of(self, event: Event) -> _Work:
        return self._work.setdefault(event["key"], _Work(is_trial=False))

    def _launch(self, event: Event) -> None:
        self.end = None
        self.lines = list(event["lines"])
        self.num_trials, self.base_flops = event["trials"], event["base"]["flops"]
        self._launched_ms, self._new_epochs, self._expected = self._now_ms, 0, 0
        for work in self._work.values():
            if work.state == "running":
                work.state = "waiting"

    def _epochs(self, event: Event) -> None:
        work, records = self._of(event), event["records"]
        record = records[-1]
        new = max(0, record["step"] - work.step)
        if len(records) == 1:
            self._new_epochs += new
        else:  # those of an earlier process, which took no time of this one
            self._expected -= new
        work.stage, work.step, work.num_steps = record["stage"], record["step"], record["num_steps"]
        work.validation_accuracy = record["validation_accuracy"]

    def _finish(self, event: Event) -> None:
        work = self._of(event)
        work.state, work.step = "finished", work.num_steps
        for outcome in event["outcomes"]:
            names = ("key", "origin", "flops", "params", "validation_accuracy")
            self.found[outcome["key"]] = Found(**{name: outcome[name] for name in names})
        self._best_volume = hypervolume(list(self.found.values()), self.base_flops or 1)

    @property
    def num_epochs(self) -> int:
        """Epochs that are done, over all tasks."""
        return sum(work.step for work in self._work.values())

    @property
    def seconds_left(self) -> float | None:
        """By the pace since the last launch; None before there is anything to go by."""
        if not self._new_epochs or self.end is not None:
            return None
        elapsed = (self._now_ms - self._launched_ms) / 1000
        return elapsed / self._new_epochs * max(0, self._expected - self._new_epochs)

    def progress(self) -> dict[str, Any]:
        """JSON-able, for people who wait: see the service's description of `Progress`."""
        trials = {"planned": self.num_trials, "finished": 0, "running": 0, "waiting": 0}
        trials |= {"failed": 0, "stopped early": 0, "infeasible": 0}
        for work in self._work.values():
            if work.is_trial:
                trials[work.state] += 1
        best = max(self.found.values(), key=lambda f: f.validation_accuracy, default=None)
        remaining = max(0, self._expected - self._new_epochs)
        return {
            "trials": trials,
            "networks": len(self.found),
            "epochs": self.num_epochs,
            "expected_epochs": self.num_epochs + (0 if self.end else remaining),
            "best": None if best is None else vars(best),
            "hypervolume": self._best_volume,
            "seconds_left": self.seconds_left,
            "running": [
                {
                    "key": key,
                    "stage": work.stage,
                    "step": work.step,
                    "num_steps": work.num_steps,
                    "validation_accuracy": work.validation_accuracy,
                }
                for key, work in self._work.items()
                if work.state == "running"
            ],
        }
