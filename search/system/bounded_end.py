"""A bound on how long a process takes to end once it was told to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS, _LAST_SECONDS = 0.2, 1.0
_STATUS = 1

_log = logging.getLogger(__name__)


class BoundedEnd:
    """Ends this process by force so many seconds after `begin`, if it has not ended by then.

    A thread that waits for a database or a server that hangs can't be told to end, and Python
    waits for it at exit.  leave: ends the process with a status.
    """

    def __init__(self, seconds: float, leave: Callable[[int], object] = os._exit) -> None:
        self._seconds, self._leave = seconds, leave
        self._begun_at: float | None = None
        self._is_watching = True
        self._last_acts: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._watch, name="bounded end", daemon=True)

    def start(self) -> None:
        """Watch, until the process ends or `rest`."""
        self._thread.start()

    def rest(self) -> None:
        """Watch no more, unless it has begun: what was begun holds to the end of the process."""
        self._is_watching = self._begun_at is not None

    def begin(self) -> None:
        """Count from now, unless that was said before. Takes no lock: signal handlers may call."""
        if self._begun_at is None:
            self._begun_at = time.monotonic()

    def before_force(self, act: Callable[[], object]) -> None:
        """Have this done first where the process is ended by force, within a second."""
        self._last_acts.append(act)

    def _watch(self) -> None:
        while self._begun_at is None or time.monotonic() - self._begun_at < self._seconds:
            time.sleep(_LOOK_SECONDS)
            if not self._is_watching:
                return
        _log.warning("not everything ends within %g s: ended by force", self._seconds)
        last = threading.Thread(target=self._act, name="before the end by force", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        self._leave(_STATUS)

    def _act(self) -> None:
        for act in self._last_acts:
            try:
                act()
            except Exception:  # the process has to end all the same
                _log.exception("before the end by force")
