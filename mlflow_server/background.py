"""Recording without waiting: one thread writes what the search hands over."""

import threading
from collections import Counter
from queue import SimpleQueue
from typing import final

from mlflow_server.errors import TrackingError
from mlflow_server.runs import Entry, RunRecorder


@final
class BackgroundRecorder(RunRecorder):
    """Hands every entry to one thread, which writes them in order to another recorder.

    The caller never waits for the store, and only one thread writes to it. A failure never
    reaches the caller: it becomes a line of `problems`, and its entry counts as undelivered.
    While a store is out of reach (TrackingError.is_transient) the entry is tried again until
    it is delivered or the time to close is up, so an outage in between loses nothing.
    """

    def __init__(self, inner: RunRecorder, *, retry_seconds: float = 5.0) -> None:
        assert retry_seconds > 0, f"retry_seconds must be positive, got {retry_seconds}"
        self._inner = inner
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._entries: SimpleQueue[Entry | None] = SimpleQueue()
        self._failures: Counter[str] = Counter()
        self._num_accepted = 0
        self._num_delivered = 0
        self._is_closed = False
        self._is_abandoned = threading.Event()
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
        return (*lines, *self._inner.problems)

    def write(self, entry: Entry) -> None:
        with self._lock:
            self._num_accepted += 1
            if self._is_closed:
                self._failures[_problem(entry, "the recorder was closed before")] += 1
            else:
                self._entries.put(entry)

    def close(self, timeout_seconds: float = 30.0) -> int:
        """Deliver what is pending for at most this long; return how many entries are missing.

        The number includes entries that failed. One that is being written when the time is up
        counts as missing although it may still arrive; nothing later is attempted.
        """
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._entries.put(None)
        self._thread.join(timeout_seconds)
        self._is_abandoned.set()
        with self._lock:
            missing = self._num_accepted - self._num_delivered
        return missing + self._inner.close(timeout_seconds)

    def _deliver_all(self) -> None:
        while (entry := self._entries.get()) is not None:
            while not self._is_abandoned.is_set() and not self._deliver(entry):
                self._is_abandoned.wait(self._retry_seconds)

    def _deliver(self, entry: Entry) -> bool:
        """Whether the entry is done with; false if it should be tried again."""
        try:
            self._inner.write(entry)
        except Exception as error:  # whatever it is, the search must go on: it becomes a line
            with self._lock:
                self._failures[_problem(entry, error)] += 1
            return not (isinstance(error, TrackingError) and error.is_transient)
        with self._lock:
            self._num_delivered += 1
        return True


def _problem(entry: Entry, cause: object) -> str:
    first_line = (str(cause).splitlines() or [type(cause).__name__])[0]
    return f"{type(entry).__name__} of {entry.key!r} failed: {first_line}"
