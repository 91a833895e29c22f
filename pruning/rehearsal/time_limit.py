"""How long a trace may take, and what people are told meanwhile."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping

TIME_LIMIT = 30.0
"""Seconds that `pruning.trace` takes at most for its runs of a network, by default."""

_PATIENCE = 2.0
"""Seconds after which people are told what takes so long."""

_PAUSE = 1.0
"""Seconds after which they are told again during the same run."""

Progress = Callable[[str], None]


class OutOfTimeError(Exception):
    """The time for tracing is over.

    limit: in seconds.  passed: the most units that were removed together without a failure.
    """

    def __init__(self, limit: float, passed: Mapping[str, int]) -> None:
        super().__init__(limit)
        self.limit, self.passed = limit, dict(passed)


class Clock:
    """Counts the time of one trace from when it is made, which first runs a network as it is.

    limit: in seconds, above 0; math.inf for none.
    progress: told, after 2 s, what is being done, before each run and every second of it; an empty
        line at the end.
    """

    def __init__(self, limit: float, progress: Progress) -> None:
        self._limit, self._progress = limit, progress
        self._start = self._last = time.monotonic()
        self._longest, self._told_at = 0.0, -math.inf
        self._doing = "running the network as it is"

    def check(self, num_runs: int, passed: Mapping[str, int]) -> None:
        """Raise OutOfTimeError if another run would not end in time.

        num_runs: that were made with fewer channels.  passed: what the error will hold.
        """
        now = time.monotonic()
        if num_runs:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        if now + self._longest - self._start > self._limit:
            raise OutOfTimeError(self._limit, passed)
        self._doing = (
            f"looking for sizes that the network's code fixes, run {num_runs + 1} with fewer "
            "channels"
        )
        self._tell(now)

    def tick(self) -> None:
        """To be called at every operator of a run."""
        now = time.monotonic()
        if now - self._told_at > _PAUSE:
            self._tell(now)

    def close(self) -> None:
        """Tell people, by an empty line, that there is nothing to wait for any more."""
        if self._told_at > -math.inf:
            self._progress("")

    def _tell(self, now: float) -> None:
        if now - self._start > _PATIENCE:
            self._told_at = now
            most = f" of at most {self._limit:g} s" if self._limit < math.inf else ""
            self._progress(f"tracing: {self._doing} ({now - self._start:.0f} s{most})")


def to_terminal(line: str) -> None:
    """Show a line on standard error, over the one before, if that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{line}\r")
        sys.stderr.flush()
