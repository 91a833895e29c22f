"""Takes searches from the queue and keeps them running, over restarts of the service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from search.service.database.search_queue import SearchQueue
from search.service.database.tables import SearchRow
from search.service.database.transactions import Database
from search.service.queue.launcher import Launcher
from search.service.queue.periodic_thread import PeriodicThread
from search.service.queue.supervisor import Supervisor
from search.service.throttled_log import OUTAGES, ThrottledLog

_INTERVAL_SECONDS = 0.5
_CLOSING_SECONDS = 5.0


class Dispatcher(PeriodicThread):
    """Keeps at most `max_running` searches running, in the order of the queue.

    runs: folder of all searches.  require_lock: raises ServiceError while another service may be
    at work on the same queue.
    """

    def __init__(
        self,
        database: Database,
        launcher: Launcher,
        runs: Path,
        *,
        max_running: int,
        require_lock: Callable[[], None] = lambda: None,
    ) -> None:
        log = ThrottledLog(logging.getLogger(__name__))
        super().__init__("the queue", _INTERVAL_SECONDS, log)
        self._queue, self._launcher = SearchQueue(database), launcher
        self._supervisor = Supervisor(database, launcher, runs)
        self._require_lock, self._max_running = require_lock, max_running

    def step(self) -> None:
        """Look at all that run, then start what there is room for."""
        self._require_lock()
        for row in self._queue.running():
            self._isolated(row, self._supervisor.attend)
        room = self._max_running - len(self._queue.running())
        for row in self._queue.take_next(room) if room > 0 else ():
            self._isolated(row, self._supervisor.launch)

    def _isolated(self, row: SearchRow, act: Callable[[SearchRow], None]) -> None:
        """Act on a search so that its errors are its own: the others get their turn."""
        if self._is_closing.is_set():
            return
        try:
            act(row)
        except Exception as error:  # as it says
            self._log.report(row.id, error)
            if not isinstance(error, OUTAGES):
                self._supervisor.count_error(row, error)
        else:
            self._log.clear(row.id)
            self._supervisor.clear_errors(row)

    def close(self, timeout_seconds: float = _CLOSING_SECONDS) -> None:
        """Interrupt what runs, which goes on when a service is started again, and end.

        timeout_seconds: how long to wait for them, in all; they end without this process as well.
        """
        deadline = time.monotonic() + timeout_seconds
        super().close(timeout_seconds / 2)
        asked = self._interrupt(self._supervisor.handles(), set())
        with suppress(*OUTAGES):  # without the database all are known but those of a first look
            asked = self._interrupt({row.handle for row in self._queue.running()}, asked)
        while True:
            lasts = self._thread.is_alive()  # a step that may still launch something
            asked = self._interrupt(self._supervisor.handles(), asked)
            if time.monotonic() > deadline or not (lasts or self._any_runs(asked)):
                break
            time.sleep(0.1)

    def _interrupt(self, handles: set[str], asked: set[str]) -> set[str]:
        """Ask processes to end that were not asked before; all that were asked by now."""
        for handle in handles - asked - {""}:
            with suppress(*OUTAGES):
                self._launcher.interrupt(handle)
        return asked | handles - {""}

    def _any_runs(self, handles: set[str]) -> bool:
        with suppress(*OUTAGES):
            return any(self._launcher.poll(handle) is None for handle in handles)
        return True
