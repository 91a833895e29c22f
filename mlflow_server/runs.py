"""What can be recorded of a run, and the recorder that every way of recording implements.

A recorder addresses a run by its key, the name that is stable inside a search, and returns
nothing. So a record can be kept for later, and a search that is resumed finds its runs again.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal, Self, final

from mlflow_server import schema
from mlflow_server.errors import TrackingError

RunKind = Literal["search", "trial", "architecture", "correlation", "criterion", "family"]
RunStatus = Literal["running", "finished", "failed", "killed"]
EndStatus = Literal["finished", "failed", "killed"]
Value = str | int | float | bool

# MLflow cuts longer values, or refuses them where it is configured to; here they end in "…".
MAX_PARAM_LENGTH = 6000  # characters
MAX_TAG_LENGTH = 8000  # characters, the description included

NOTHING: Mapping[str, Value] = MappingProxyType({})

_WRITTEN_BY_RECORDER = frozenset(
    {schema.TAG_SEARCH, schema.TAG_KIND, schema.TAG_KEY, schema.TAG_FAILURE}
)


@dataclass(frozen=True)
class OpenRun:
    """Create the run, or continue it if the search already has one of this key."""

    key: str
    kind: RunKind
    name: str
    parent: str | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
    time_ms: int


@dataclass(frozen=True)
class LogMetrics:
    """Add one value to each of these metrics' curves."""

    key: str
    metrics: Mapping[str, float]
    step: int
    time_ms: int


@dataclass(frozen=True)
class SetTags:
    """Set these tags, replacing the values they had."""

    key: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class LogFile:
    """Store a copy of this file with the run."""

    key: str
    path: Path
    folder: str | None


@dataclass(frozen=True)
class EndRun:
    """Close the run; it can be opened again."""

    key: str
    status: EndStatus
    reason: str | None
    time_ms: int


Entry = OpenRun | LogMetrics | SetTags | LogFile | EndRun


@dataclass(frozen=True)
class RecordedRun:
    """What is recorded of one run at the moment of reading.

    `metrics` holds, per name, every (step, value) in the order of steps. `files` are the paths
    below the run's own folder, sorted. `tags` are Espalier's own, those of MLflow left out.
    """

    key: str
    kind: str
    name: str
    parent: str | None
    status: RunStatus
    description: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, tuple[tuple[int, float], ...]]
    files: tuple[str, ...]


class RunRecorder(ABC):
    """Writes the runs of one search; close it at the end, or use it as a context manager.

    Every method asserts first, in the caller's thread, that the names are in `schema.FIELDS`,
    then hands one entry to `write`. Unless a class says otherwise, a method raises
    TrackingError if the entry cannot be recorded.
    """

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each kind of failure that was kept from the caller, oldest first."""
        return ()

    @abstractmethod
    def write(self, entry: Entry) -> None:
        """Record one entry, which is complete and checked."""

    def write_metrics(self, entries: Sequence[LogMetrics]) -> None:
        """Record several points of one run's curves; as a whole or, after an error, in part."""
        for entry in entries:
            self.write(entry)

    def close(self, timeout_seconds: float = 30.0, *, outages_pass: bool = True) -> int:
        """End recording; return how many entries were not delivered. May be called twice.

        outages_pass: whether the end of an outage is waited for, or no more than tried once.
        """
        del timeout_seconds, outages_pass  # nothing is pending in a recorder that writes at once
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @final
    def open_run(
        self,
        key: str,
        *,
        kind: RunKind,
        name: str,
        parent: str | None = None,
        params: Mapping[str, Value] = NOTHING,
        tags: Mapping[str, Value] = NOTHING,
        description: str = "",
    ) -> None:
        """Open the run of this key, and continue it if the search already has it.

        `parent` is the key of a run opened before. A run that is continued is running again,
        loses its failure reason, and takes the name, description and tags given here. Params
        never change in MLflow: new ones are added; one with another value than recorded
        raises TrackingError once everything else is written.
        """
        assert key, "a run's key is not empty"
        assert "'" not in key, f"MLflow cannot look up a key with a quote, got {key!r}"
        schema.require("param", params)
        self.write(
            OpenRun(
                key=key,
                kind=kind,
                name=name,
                parent=parent,
                params=_as_text(params, MAX_PARAM_LENGTH),
                tags=_checked_tags(tags),
                description=_shortened(description, MAX_TAG_LENGTH),
                time_ms=_now_ms(),
            )
        )

    @final
    def log_metrics(
        self,
        key: str,
        metrics: Mapping[str, float],
        step: int | None = None,
        *,
        time_ms: int | None = None,
    ) -> None:
        """Add one value to each metric of the run, at this step (0 if there is none).

        `time_ms` is when it was measured, in milliseconds since 1970; now, if it is not given.
        The same value of the same step and time is the same point, however often it is logged,
        so a measurement that is reported again after a resume needs its own time; with
        another time or value it is a second point of the curve at this step. NaN is recorded as
        NaN; MLflow stores an infinite value as the largest float of its sign.
        """
        schema.require("metric", metrics)
        values = {name: float(value) for name, value in metrics.items()}
        self.write(LogMetrics(key, values, step or 0, _now_ms() if time_ms is None else time_ms))

    @final
    def set_tags(self, key: str, tags: Mapping[str, Value]) -> None:
        """Set tags of the run; a tag that is already there takes the new value."""
        self.write(SetTags(key, _checked_tags(tags)))

    @final
    def log_file(self, key: str, path: Path, folder: str | None = None) -> None:
        """Store a copy of the file with the run, in `folder` (parts separated by `/`) if given.

        The file has to stay as it is until the entry is written.
        """
        parts = PurePosixPath(folder or "")
        is_inside = not parts.is_absolute() and ".." not in parts.parts
        assert is_inside, f"a folder lies inside its run, got {folder!r}"
        self.write(LogFile(key, Path(path), folder or None))

    @final
    def end_run(self, key: str, status: EndStatus, reason: str | None = None) -> None:
        """Close the run; `reason` says why it failed or was killed."""
        assert reason is None or status != "finished", "a finished run has no reason to fail"
        text = None if reason is None else _shortened(reason, MAX_TAG_LENGTH)
        self.write(EndRun(key, status, text, _now_ms()))


def own_tags(entry: OpenRun, search_name: str) -> dict[str, str]:
    """All of Espalier's tags that a run has from the moment it is opened."""
    return {
        schema.TAG_SEARCH: search_name,
        schema.TAG_KIND: entry.kind,
        schema.TAG_KEY: entry.key,
        **entry.tags,
    }


def changed_params(recorded: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Params that are recorded with another value, each as `recorded, now given`."""
    return {
        name: f"{recorded[name]}, now {value}"
        for name, value in given.items()
        if recorded.get(name, value) != value
    }


def conflicting_params(key: str, conflicts: Mapping[str, str]) -> str:
    """One line about params that keep the value recorded first."""
    listed = "; ".join(f"{name} was {values}" for name, values in conflicts.items())
    return f"run {key!r} keeps the params recorded first: {listed}"


def never_opened(key: str, search_name: str) -> str:
    """One line about a key without a run."""
    return f"search {search_name!r} has no run {key!r}: open it before it is written to"


def require_file(path: Path) -> None:
    """Raise TrackingError if there is no such file."""
    if not path.is_file():
        raise TrackingError(f"there is no file {path} to store with the run")


def _checked_tags(tags: Mapping[str, Value]) -> dict[str, str]:
    schema.require("tag", tags)
    taken = _WRITTEN_BY_RECORDER.intersection(tags)
    assert not taken, f"tags written by the recorder itself: {sorted(taken)}"
    return _as_text(tags, MAX_TAG_LENGTH)


def _as_text(values: Mapping[str, Value], limit: int) -> dict[str, str]:
    return {
        name: _shortened(str(value).lower() if isinstance(value, bool) else str(value), limit)
        for name, value in values.items()
    }


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
