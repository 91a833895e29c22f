"""Log lines about conditions that last: at once, then once a minute."""

from __future__ import annotations

import logging
import time
from threading import Lock

from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import ServiceError, first_line

OUTAGES = (ServiceError, SQLAlchemyError, OSError)
"""Errors that pass without anybody's doing: a cluster, the database or a disk is away."""

_INTERVAL_SECONDS = 60.0


class ThrottledLog:
    """Keeps a condition that is met many times a second from filling the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._lock = log, Lock()
        self._last: dict[str, tuple[str, float]] = {}

    def warn(self, subject: str, message: str, *, bug: BaseException | None = None) -> None:
        """Log the message about the subject, unless the same was logged within a minute.

        bug: an unforeseen error; it is logged with its traceback.
        """
        now = time.monotonic()
        with self._lock:
            last_message, logged_at = self._last.get(subject, ("", 0.0))
            if message == last_message and now - logged_at < _INTERVAL_SECONDS:
                return
            self._last[subject] = message, now
        if bug is None:
            self._log.warning("%s: %s", subject, message)
        else:
            self._log.error("%s: %s", subject, message, exc_info=bug)

    def report(self, subject: str, error: Exception) -> None:
        """Log an error that keeps the subject waiting: an outage in a line, a bug in full."""
        if isinstance(error, OUTAGES):
            self.warn(subject, f"waits: {first_line(error)}")
        else:
            self.warn(subject, first_line(error), bug=error)

    def clear(self, subject: str) -> None:
        """The condition is over: the next message about the subject is logged at once."""
        with self._lock:
            self._last.pop(subject, None)
