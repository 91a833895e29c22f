"""The trials of a search, as its events tell of them."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_server.append_log import open_file
from search.service.problem_details import ProblemError
from search.service.runs_folder import RunsFolder
from search.storage.layout import EVENTS_FILE
from search.tracking.event_file import Event, EventFile

_MOST_SEARCHES = 32
"""Whose trials are kept between two requests."""


@dataclass
class TrialState:
    """One trial as it stands; times are milliseconds since 1970.

    repeat: from 1 on the same proposal again, with other seeds.  state: running, waiting for a
    process, finished, failed, stopped early or infeasible.  architectures: names of what
    came of it.  last: its newest epoch, see search.trials.jobs.EpochRecord.  places: bytes of the
    events that tell of its epochs.
    """

    number: int
    repeat: int
    criterion: str
    granularity: str
    settings: dict[str, float]
    target_flops: float | None
    schedule: str
    cost_exponent: float
    started_ms: int
    state: str = "running"
    reason: str = ""
    ended_ms: int | None = None
    architectures: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """JSON-able, with the last epoch in place of the curve."""
        left_out = ("last", "places")
        fields = {name: value for name, value in vars(self).items() if name not in left_out}
        names = ("stage", "step", "num_steps", "validation_score")
        return fields | {name: self.last.get(name) for name in names}


class TrialsOfSearch:
    """The trials of one search in the order of their beginning, read as their events come.

    Epochs stay in the file: what is kept is where they are. A trial that this version cannot read
    is left out.
    """

    def __init__(self, file: Path) -> None:
        self._file = EventFile(file)
        self._by_key: dict[str, TrialState] = {}
        self.all: list[TrialState] = []

    def read(self) -> None:
        """Take the events that are new."""
        if self._file.is_another():
            self._by_key, self.all = {}, []
        for _, line in self._file.lines():
            self._take(json.loads(line), self._file.offset - len(line))

    def details(self, trial: TrialState) -> dict[str, Any]:
        """JSON-able, with all epochs in order."""
        curve: dict[int, dict[str, Any]] = {}
        with open_file(self._file.path) as stream:
            for place in trial.places:
                stream.seek(place)
                records = json.loads(stream.readline())["records"]
                curve |= {epoch["step"]: epoch for epoch in records}
        return trial.summary() | {"curve": [curve[step] for step in sorted(curve)]}

    def _take(self, event: Event, place: int) -> None:
        kind, key = event["event"], event.get("key", "")
        if kind in ("launched", "interrupted"):
            for trial in self.all:
                trial.state = "waiting" if trial.state == "running" else trial.state
        elif kind == "started":
            with suppress(KeyError, TypeError):
                if key not in self._by_key:
                    self._by_key[key] = _started(event)
                    self.all.append(self._by_key[key])
                self._by_key[key].state = "running"
        elif key in self._by_key:
            _update(self._by_key[key], event, place)


class TrialStates:
    """The trials of the searches that were asked for last. One thread at a time asks."""

    def __init__(self, runs: RunsFolder) -> None:
        self._runs = runs
        self._searches: OrderedDict[Path, TrialsOfSearch] = OrderedDict()

    def of(self, search_id: str) -> TrialsOfSearch | None:
        """As they stand now; None of a search that has not begun."""
        try:
            file = self._runs.file(search_id, EVENTS_FILE)
        except ProblemError:
            return None
        trials = self._searches.setdefault(file, TrialsOfSearch(file))
        self._searches.move_to_end(file)
        trials.read()
        if len(self._searches) > _MOST_SEARCHES:
            self._searches.popitem(last=False)
        return trials


def _started(event: Event) -> TrialState:
    job = event["job"]
    proposal = job["proposal"]
    names = ("criterion", "granularity", "settings", "target_flops")
    return TrialState(
        number=job["number"],
        repeat=job["repeat"],
        started_ms=event["time_ms"],
        **{name: proposal[name] for name in names},
        schedule=proposal.get("schedule", "one-shot"),
        cost_exponent=proposal.get("cost_exponent", 0.0),
    )


def _update(trial: TrialState, event: Event, place: int) -> None:
    match event["event"]:
        case "epochs":
            newest = max(event["records"], key=lambda epoch: epoch["step"])
            if newest["step"] >= trial.last.get("step", 0):
                trial.last = newest
            trial.places.append(place)
        case "finished":
            trial.state, trial.ended_ms = "finished", event["time_ms"]
            trial.architectures = [outcome["key"] for outcome in event["outcomes"]]
        case "ended":
            trial.state, trial.reason = event["state"], event["reason"]
            trial.ended_ms = event["time_ms"]
