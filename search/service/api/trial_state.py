"""The trials of a search, told from its events."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from search.tracking.search_state import Event


@dataclass
class TrialRecord:
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
    target_flops: float
    started_ms: int
    state: str = "running"
    reason: str = ""
    ended_ms: int | None = None
    curve: dict[int, dict[str, Any]] = field(default_factory=dict)
    architectures: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """JSON-able, without the curve but for its end."""
        last = self.curve[max(self.curve)] if self.curve else {}
        found = {name: value for name, value in vars(self).items() if name != "curve"}
        names = ("stage", "step", "num_steps", "validation_accuracy")
        return found | {name: last.get(name) for name in names}

    def details(self) -> dict[str, Any]:
        """JSON-able, with all epochs in order."""
        return self.summary() | {"curve": [self.curve[step] for step in sorted(self.curve)]}


def trial_records(events: Iterable[Event]) -> list[TrialRecord]:
    """In the order of their beginning; a trial that this version cannot read is left out."""
    found: dict[str, TrialRecord] = {}
    for event in events:
        kind, key = event["event"], event.get("key", "")
        if kind in ("launched", "interrupted"):
            for record in found.values():
                record.state = "waiting" if record.state == "running" else record.state
        elif kind == "started":
            with suppress(KeyError, TypeError):
                found.setdefault(key, _begun(event)).state = "running"
        elif key in found:
            _change(found[key], event)
    return list(found.values())


def _begun(event: Event) -> TrialRecord:
    job = event["job"]
    proposal = job["proposal"]
    names = ("criterion", "granularity", "settings", "target_flops")
    return TrialRecord(
        number=job["number"],
        repeat=job["repeat"],
        started_ms=event["time_ms"],
        **{name: proposal[name] for name in names},
    )


def _change(record: TrialRecord, event: Event) -> None:
    match event["event"]:
        case "epochs":
            record.curve |= {epoch["step"]: epoch for epoch in event["records"]}
        case "finished":
            record.state, record.ended_ms = "finished", event["time_ms"]
            record.architectures = [outcome["key"] for outcome in event["outcomes"]]
        case "ended":
            record.state, record.reason = event["state"], event["reason"]
            record.ended_ms = event["time_ms"]
