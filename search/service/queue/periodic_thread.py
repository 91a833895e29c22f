"""A thread that does the same step again and again."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from search.service.throttled_log import ThrottledLog


class PeriodicThread(ABC):
    """Calls `step` every so many seconds, from `start` to `close`; no error of a step ends it.

    log: where errors are reported.  A step that takes longer than `stuck_after_seconds` counts
    as stuck.
    """

    def __init__(self, name: str, interval_seconds: float, log: ThrottledLog) -> None:
        self.stuck_after_seconds = 60.0
        self._interval_seconds, self._log = interval_seconds, log
        self._stepped_at = time.monotonic()
        self._woken, self._is_closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def step(self) -> None:
        """What is done each time."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Begin the next step at once."""
        self._woken.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, and its steps succeed."""
        is_stuck = time.monotonic() - self._stepped_at > self.stuck_after_seconds
        return self._thread.is_alive() and not is_stuck

    def close(self, timeout_seconds: float) -> None:
        """End after the step that is being done, and wait for that at most so long."""
        self._is_closing.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        name = self._thread.name
        while not self._is_closing.is_set():
            try:
                self.step()
            except Exception as error:  # whatever it is, the next step may succeed
                self._log.report(name, error)
            else:
                self._stepped_at = time.monotonic()
                self._log.clear(name)
            self._woken.wait(self._interval_seconds)
            self._woken.clear()
