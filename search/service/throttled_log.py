"""Log lines about what lasts: once, then once a minute while it does."""

from __future__ import annotations

import logging
import time
from threading import Lock

_EVERY_SECONDS = 60.0


class Announcements:
    """Keeps a condition that is met many times a second from filling the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._lock = log, Lock()
        self._said: dict[str, tuple[str, float]] = {}

    def say(self, what: str, line: str, *, bug: BaseException | None = None) -> None:
        """Log the line about `what`, unless the same was logged within a minute.

        bug: an error that nobody foresaw; it is logged with its traceback.
        """
        now = time.monotonic()
        with self._lock:
            before, at = self._said.get(what, ("", 0.0))
            if line == before and now - at < _EVERY_SECONDS:
                return
            self._said[what] = line, now
        if bug is None:
            self._log.warning("%s: %s", what, line)
        else:
            self._log.error("%s: %s", what, line, exc_info=bug)

    def over(self, what: str) -> None:
        """It lasts no more: what comes next is said at once."""
        with self._lock:
            self._said.pop(what, None)
