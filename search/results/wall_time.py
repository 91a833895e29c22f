"""Where the wall time of a search's workers went, from its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.system.stopwatch import PHASES

BESIDE, WAITING = "beside epochs", "without a job"
"""Of workers: what jobs do beside their epochs, such as starting, scoring, pruning and storing; and
the time without a job, while Ray starts or others end. What comes after the last job is left out: a
search that is resumed when it is over would tell something else each time."""

_OF_JOBS = ("started", "epochs", "scored", "finished", "ended")

_WORDS = {
    "steps": "training steps",
    "data": "data",
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",
    "report": "reports",
    BESIDE: BESIDE,
    WAITING: WAITING,
}


@dataclass
class WallTime:
    """Takes events as they come, and tells the seconds of all workers so far.

    There are as many workers as ever had a job at the same time. Of epochs that were gone through
    again nothing is told, so that they are beside epochs.
    """

    _phases: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, int] = field(default_factory=dict)
    _begun_ms: dict[str, int] = field(default_factory=dict)
    _busy_ms: int = 0
    _spent_ms: int = 0
    _launched_ms: int = 0
    _now_ms: int = 0
    _num_workers: int = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Let an event count."""
        kind, before = event["event"], self._now_ms
        if kind == "launched":  # what was under way ended with the process before
            for key in tuple(self._begun_ms):
                self._end(key)
        if kind == "launched" or kind in _OF_JOBS:
            self._now_ms = max(before, event["time_ms"])
        if kind == "launched":
            self._spent_ms += before - self._launched_ms
            self._launched_ms = self._now_ms
        elif kind == "started":
            self._begun_ms.setdefault(event["key"], self._now_ms)
            self._num_workers = max(self._num_workers, len(self._begun_ms))
        elif kind == "epochs":
            self._count(event["key"], event["records"])
        elif kind in ("finished", "ended"):
            self._end(event["key"])

    @property
    def seconds(self) -> dict[str, float]:
        """By phase of epochs, see search.system.stopwatch, then BESIDE and WAITING.

        Empty where no epoch has said what its seconds went to.
        """
        if not self._phases:
            return {}
        under_way = sum(self._now_ms - begun for begun in self._begun_ms.values())
        busy = (self._busy_ms + under_way) / 1000
        spent = (self._spent_ms + self._now_ms - self._launched_ms) / 1000
        phases = {phase: self._phases.get(phase, 0.0) for phase in PHASES}
        return phases | {
            BESIDE: max(0.0, busy - sum(phases.values())),
            WAITING: max(0.0, self._num_workers * spent - busy),
        }

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able: everything that events to come may change."""
        return dict(vars(self))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> WallTime:
        """The inverse of `to_mapping`; TypeError if it is none."""
        return cls(**content)

    def _count(self, key: str, records: list[Mapping[str, Any]]) -> None:
        """Each epoch once, however often it is told of."""
        for record in records:
            if record["step"] > self._steps.get(key, 0):
                self._steps[key] = record["step"]
                for phase, seconds in record.get("seconds", {}).items():
                    self._phases[phase] = self._phases.get(phase, 0.0) + seconds

    def _end(self, key: str) -> None:
        self._busy_ms += self._now_ms - self._begun_ms.pop(key, self._now_ms)


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Parts of one, in the same order; none of nothing."""
    total = sum(seconds.values())
    return {name: value / total for name, value in seconds.items()} if total else {}


def shares_text(seconds: Mapping[str, float]) -> str:
    """Such as "93 % training steps, 2.1 % data, …"; empty of nothing."""
    return ", ".join(
        f"{100 * share:.{0 if share >= 0.1 else 1}f} % {_WORDS.get(name, name)}"
        for name, share in shares(seconds).items()
    )
