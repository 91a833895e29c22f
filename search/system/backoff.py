"""Pauses between attempts at something that fails for a while."""

from __future__ import annotations

import time


class Backoff:
    """Pauses of `first_seconds`, doubled after every further failure up to `longest_seconds`."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._seconds, self._until = 0.0, 0.0

    def fail(self) -> float:
        """Begin the pause before the next attempt; its length in seconds."""
        self._seconds = min(2 * self._seconds if self._seconds else self._first, self._longest)
        self._until = time.monotonic() + self._seconds
        return self._seconds

    @property
    def is_pausing(self) -> bool:
        """Whether the pause that began last is not over yet."""
        return time.monotonic() < self._until

    def reset(self) -> None:
        """An attempt has succeeded: end the pause; the next failure begins with the first one."""
        self._seconds, self._until = 0.0, 0.0
