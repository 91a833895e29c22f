"""Recording without waiting: one thread writes what the search hands over."""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import final

from mlflow_server.errors import TrackingError
from mlflow_server.runs import Entry, LogFile, LogMetrics, RunRecorder
from mlflow_server.spool import Spool

MAX_RETRY_SECONDS = 10.0
"""The longest pause between two attempts to reach a store."""

_MAX_ENTRIES = 5000
"""Taken from the queue at a time."""

_MAX_METRICS = 1000
"""In one call, the most that MLflow takes."""


@dataclass(frozen=True)
class _Waiting:
    """An entry, and the byte of the spool where it ends; None if it is only in memory."""

    entry: Entry
    end: int | None


@final
class BackgroundRecorder(RunRecorder):
    """Hands every entry to one thread, which writes them in order to another recorder.

    The caller never waits for the store, and only one thread writes to it. A failure never
    reaches the caller: it becomes a line of `problems`, and its entry counts as undelivered.
    While a store is out of reach (TrackingError.is_transient) the entry is tried again, after
    pauses that double from `retry_seconds` to MAX_RETRY_SECONDS, until it is delivered or the
    time to close is up. Metrics that pile up are written in batches.

    With a `spool`, a file that need not exist, entries are kept there until they are delivered:
    those that a store out of reach or the death of the process left there are delivered first
    by the next recorder with this spool. Raises TrackingError if the spool cannot be read or
    another process uses it.
    """

    def __init__(
        self, inner: RunRecorder, *, spool: Path | None = None, retry_seconds: float = 1.0
    ) -> None:
        assert retry_seconds > 0, f"retry_seconds must be positive, got {retry_seconds}"
        self._inner = inner
        self._retry_seconds = retry_seconds
        self._spool = None if spool is None else Spool(spool)
        self._failures: Counter[str] = Counter()
        left = [] if self._spool is None else [_Waiting(*pair) for pair in self._spool.left()]
        if self._spool is not None and self._spool.num_unreadable:
            self._failures[f"{spool}: {self._spool.num_unreadable} lines could not be read"] += 1
        self._lock = threading.Condition()
        self._waiting: deque[_Waiting] = deque(left)
        self._num_accepted = len(left)
        self._num_delivered = 0
        self._num_kept = len(left)  # in the spool, and not done with
        self._is_closed = False
        self._outages_pass = True
        self._is_abandoned = False
        # A daemon, so that a store that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._deliver_all, name="recorder", daemon=True)
        self._thread.start()

    @property
    def problems(self) -> tuple[str, ...]:
        with self._lock:
            lines = [
                line if count == 1 else f"{line} ({count} times)"
                for line, count in self._failures.items()
            ]
            if self._is_abandoned and self._spool is not None and self._num_kept:
                lines.append(
                    f"{self._num_kept} entries wait in {self._spool.path}, "
                    "to be delivered when the same search is continued"
                )
        return (*lines, *self._inner.problems)

    def write(self, entry: Entry) -> None:
        with self._lock:
            self._num_accepted += 1
            if self._is_closed:
                self._failures[_problem(entry, "the recorder was closed before")] += 1
            else:
                self._waiting.append(_Waiting(entry, self._kept(entry)))
                self._lock.notify_all()

    def close(self, timeout_seconds: float = 30.0, *, outages_pass: bool = True) -> int:
        """Deliver what is pending for at most this long; return how many entries are missing.

        The number includes entries that failed, and those that stay in the spool. One that is
        being written when the time is up counts as missing although it may still arrive;
        nothing later is attempted.
        """
        with self._lock:
            self._is_closed, self._outages_pass = True, outages_pass
            self._lock.notify_all()
        self._thread.join(timeout_seconds)
        with self._lock:
            self._is_abandoned = True
            self._lock.notify_all()
            missing = self._num_accepted - self._num_delivered
            if self._spool is not None:
                self._spool.close(is_empty=self._num_kept == 0)
        return missing + self._inner.close(timeout_seconds)

    def _kept(self, entry: Entry) -> int | None:
        """Where the entry ends in the spool; None if it could not be written there."""
        if self._spool is None:
            return None
        try:
            end = self._spool.append(entry)
        except (OSError, TrackingError) as error:
            self._failures[f"entries are in memory only, not in {self._spool.path}: {error}"] += 1
            return None
        self._num_kept += 1
        return end

    def _deliver_all(self) -> None:
        while window := self._next_window():
            calls = deque(_batched(window))
            pause = self._retry_seconds
            while calls and not self._is_abandoned:
                was_closed = self._is_closed
                try:
                    _write(self._inner, calls[0])
                except Exception as error:  # whatever it is, the search must go on
                    if isinstance(error, TrackingError) and error.is_transient:
                        self._note(calls[0][0].entry, error)
                        if was_closed and not self._outages_pass:
                            return
                        self._pause(pause, was_closed)
                        pause = min(2 * pause, MAX_RETRY_SECONDS)
                    elif len(calls[0]) > 1:  # one bad entry shall cost no other
                        calls.extendleft([waiting] for waiting in reversed(calls.popleft()))
                    else:
                        (waiting,) = calls.popleft()
                        self._note(waiting.entry, error)
                        self._count([waiting], num_delivered=0)
                else:
                    delivered = calls.popleft()
                    self._count(delivered, num_delivered=len(delivered))
                    pause = self._retry_seconds
            self._done_with(window)

    def _next_window(self) -> list[_Waiting]:
        """What to write next, which waits for it; nothing once all is done or time is up."""
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_abandoned:
                return []
            window = list(islice(self._waiting, _MAX_ENTRIES))
            # A file may be gone when it is asked for again: what comes before it is marked first.
            files = (i for i, w in enumerate(window) if isinstance(w.entry, LogFile))
            return window[: max(1, next(files, len(window)))]

    def _done_with(self, window: Sequence[_Waiting]) -> None:
        with self._lock:
            if self._is_abandoned:
                return
            for _ in window:
                self._waiting.popleft()
            ends = [waiting.end for waiting in window if waiting.end is not None]
            if self._spool is not None and ends:
                with suppress(OSError):  # then they are delivered twice, which changes nothing
                    self._spool.mark(ends[-1])

    def _note(self, entry: Entry, error: Exception) -> None:
        with self._lock:
            self._failures[_problem(entry, error)] += 1

    def _count(self, done: Sequence[_Waiting], *, num_delivered: int) -> None:
        with self._lock:
            self._num_delivered += num_delivered
            self._num_kept -= sum(waiting.end is not None for waiting in done)

    def _pause(self, seconds: float, was_closed: bool) -> None:
        """Wait in an outage; closing since the attempt ends the pause, for one more at once."""
        if self._spool is not None:
            self._spool.sync()
        with self._lock:
            self._lock.wait_for(
                lambda: self._is_abandoned or self._is_closed != was_closed, timeout=seconds
            )


def _write(inner: RunRecorder, call: Sequence[_Waiting]) -> None:
    if len(call) == 1:
        inner.write(call[0].entry)
    else:
        inner.write_metrics([w.entry for w in call if isinstance(w.entry, LogMetrics)])


def _batched(window: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """The entries in an order that means the same, with each run's metrics in large batches.

    Metrics join those of the same run written before, if nothing else was written to that run
    in between.
    """
    calls: list[list[_Waiting]] = []
    growing: dict[str, list[_Waiting]] = {}
    num_metrics: Counter[str] = Counter()
    for waiting in window:
        entry = waiting.entry
        if not isinstance(entry, LogMetrics):
            growing.pop(entry.key, None)
            calls.append([waiting])
            continue
        num_metrics[entry.key] += len(entry.metrics)
        if entry.key not in growing or num_metrics[entry.key] > _MAX_METRICS:
            growing[entry.key] = []
            num_metrics[entry.key] = len(entry.metrics)
            calls.append(growing[entry.key])
        growing[entry.key].append(waiting)
    return calls


def _problem(entry: Entry, cause: object) -> str:
    first_line = (str(cause).splitlines() or [type(cause).__name__])[0]
    return f"{type(entry).__name__} of {entry.key!r} failed: {first_line}"
