"""The trials of a search, as its events tell of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from search.tracking.search_state import Event


@dataclass
class TrialState:
    """One trial as it stands; times are milliseconds since 1970.

    repeat: from 1 on the same proposal again, with other seeds.  state: running, waiting for a
    process, finished, failed, stopped early or infeasible.  curve: its epochs by step, see
    search.trials.jobs.EpochRecord.  architectures: names of what came of it.
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
    curve: dict[int, dict[str, Any]] = field(default_factory=dict)
    architectures: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """JSON-able, with the last epoch in place of the curve."""
        last = self.curve[max(self.curve)] if self.curve else {}
        fields = {name: value for name, value in vars(self).items() if name != "curve"}
        names = ("stage", "step", "num_steps", "validation_score")
        return fields | {name: last.get(name) for name in names}

    def details(self) -> dict[str, Any]:
        """JSON-able, with all epochs in order."""
        return self.summary() | {"curve": [self.curve[step] for step in sorted(self.curve)]}


def trial_states(events: Iterable[Event]) -> list[TrialState]:
    """In the order of their beginning; a trial that this version cannot read is left out."""
    trials: dict[str, TrialState] = {}
    for event in events:
        kind, key = event["event"], event.get("key", "")
        if kind in ("launched", "interrupted"):
            for trial in trials.values():
                trial.state = "waiting" if trial.state == "running" else trial.state
        elif kind == "started":
            with suppress(KeyError, TypeError):
                trials.setdefault(key, _started(event)).state = "running"
        elif key in trials:
            _update(trials[key], event)
    return list(trials.values())


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


def _update(trial: TrialState, event: Event) -> None:
    match event["event"]:
        case "epochs":
            trial.curve |= {epoch["step"]: epoch for epoch in event["records"]}
        case "finished":
            trial.state, trial.ended_ms = "finished", event["time_ms"]
            trial.architectures = [outcome["key"] for outcome in event["outcomes"]]
        case "ended":
            trial.state, trial.reason = event["state"], event["reason"]
            trial.ended_ms = event["time_ms"]
