"""The fake for tests: a recorder that keeps its runs in memory."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import assert_never, final

from mlflow_server import schema
from mlflow_server.errors import TrackingError
from mlflow_server.runs import (
    EndRun,
    Entry,
    LogFile,
    LogMetrics,
    OpenRun,
    RecordedRun,
    RunRecorder,
    RunStatus,
    SetTags,
    changed_params,
    conflicting_params,
    never_opened,
    own_tags,
    require_file,
)

_Point = tuple[int, int, str]
"""Step, time and value as text, so that NaN equals NaN: the same point is recorded once."""


@dataclass
class _RunInMemory:
    opened: OpenRun
    status: RunStatus = "running"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[_Point, float]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


@final
class MemoryRecorder(RunRecorder):
    """Keeps the runs of one search in memory, for tests of code that records."""

    def __init__(self, search_name: str = "search") -> None:
        self.search_name = search_name
        self._runs: dict[str, _RunInMemory] = {}

    def keys(self) -> tuple[str, ...]:
        """The keys of all runs, in the order in which they were first opened."""
        return tuple(self._runs)

    def read(self, key: str) -> RecordedRun:
        """What is recorded of a run; TrackingError if it was never opened."""
        run = self._run(key)
        return RecordedRun(
            key=key,
            kind=run.opened.kind,
            name=run.opened.name,
            parent=run.opened.parent,
            status=run.status,
            description=run.opened.description,
            params=dict(run.params),
            tags=dict(run.tags),
            metrics={
                name: tuple((point[0], curve[point]) for point in sorted(curve, key=_order))
                for name, curve in run.metrics.items()
            },
            files=tuple(sorted(run.files)),
        )

    def write(self, entry: Entry) -> None:
        match entry:
            case OpenRun():
                self._open(entry)
            case LogMetrics():
                curves = self._run(entry.key).metrics
                for name, value in entry.metrics.items():
                    point = (entry.step, entry.time_ms, repr(value))
                    curves.setdefault(name, {})[point] = value
            case SetTags():
                self._run(entry.key).tags.update(entry.tags)
            case LogFile():
                files = self._run(entry.key).files
                require_file(entry.path)
                files.add(str(PurePosixPath(entry.folder or "", entry.path.name)))
            case EndRun():
                run = self._run(entry.key)
                run.status = entry.status
                if entry.reason is not None:
                    run.tags[schema.TAG_FAILURE] = entry.reason
            case _:
                assert_never(entry)

    def _run(self, key: str) -> _RunInMemory:
        if key not in self._runs:
            raise TrackingError(never_opened(key, self.search_name))
        return self._runs[key]

    def _open(self, entry: OpenRun) -> None:
        if entry.parent is not None:
            self._run(entry.parent)
        run = self._runs.setdefault(entry.key, _RunInMemory(entry))
        run.opened = entry
        run.status = "running"
        run.tags.pop(schema.TAG_FAILURE, None)
        run.tags.update(own_tags(entry, self.search_name))
        conflicts = changed_params(run.params, entry.params)
        run.params.update({k: v for k, v in entry.params.items() if k not in run.params})
        if conflicts:
            raise TrackingError(conflicting_params(entry.key, conflicts))


def _order(point: _Point) -> tuple[int, int]:
    return point[:2]
