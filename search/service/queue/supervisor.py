"""Starts the processes of searches, follows them, and brings back those that died."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from pruning.errors import first_line
from search.service.database.architectures import Architectures
from search.service.database.search_queue import SearchQueue
from search.service.database.tables import SearchRow, State
from search.service.database.transactions import Database
from search.service.queue.followed_search import FollowedSearch
from search.service.queue.launcher import Launcher, ProcessExit
from search.service.queue.result_rows import architecture_rows, finished_rows, newest_frame
from search.storage.atomic_files import write_durably
from search.storage.layout import EVENTS_FILE, SETTINGS_FILES, SPOOL_FILE
from search.tracking.event_file import Event

MAX_LOSSES = 5
"""So often may a search's process die in a row before it has got any further."""

_MAX_ERRORS = 20
"""So often in a row may looking at a search end in a bug."""

_PATIENCE_SECONDS = 60.0
"""So long may a process take to end that was asked to, before it is killed."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Every method looks after one search that is running by the database.

    runs: folder of all searches.
    """

    def __init__(self, database: Database, launcher: Launcher, runs: Path) -> None:
        self._queue, self._architectures = SearchQueue(database), Architectures(database)
        self._launcher, self._runs = launcher, runs
        self._followed: dict[str, FollowedSearch] = {}

    def attend(self, row: SearchRow) -> None:
        """Store what its process has done since, and do what its state asks for."""
        followed = self._follow(row)
        followed.handle = row.handle or followed.handle
        if not row.handle:
            if row.wish == "stop":
                followed.read()
                self._settle(row, followed, ProcessExit("it was not begun again"))
            elif not followed.restarts.is_pausing:
                self.launch(row)
            return
        process_exit = self._launcher.poll(row.handle)
        followed.was_seen |= process_exit is None
        events = followed.read()
        if events or not followed.is_stored:
            self._store(row, followed, events)
        if process_exit is not None:
            self._settle(row, followed, process_exit)
        elif row.wish == "stop":
            self._ask_to_stop(row, followed)
        else:
            followed.stop_asked_at = None

    def launch(self, row: SearchRow) -> None:
        """Start a process for it."""
        folder = self._runs / row.id
        folder.mkdir(parents=True, exist_ok=True)
        # what was checked is what runs, whatever has become of the file
        settings = json.dumps(row.settings, indent=2).encode()
        write_durably(folder / SETTINGS_FILES[row.kind], settings)
        followed = self._follow(row)
        followed.read()
        num_epochs = followed.search_state.num_epochs
        self._queue.update(row.id, launches=row.launches + 1, epochs=num_epochs)
        followed.handle = self._launcher.launch(row.id, row.launches + 1)
        followed.was_seen = True
        followed.stop_asked_at = None
        self._queue.update(row.id, handle=followed.handle)

    def count_error(self, row: SearchRow, error: Exception) -> None:
        """Give a search up that ends in a bug at every look."""
        followed = self._follow(row)
        followed.num_errors += 1
        if followed.num_errors > _MAX_ERRORS:
            if row.handle:
                self._launcher.kill(row.handle)
            reason = f"the service cannot follow it: {type(error).__name__}: {first_line(error)}"
            self._end(row, "failed", reason)

    def handles(self) -> set[str]:
        """Of the last processes of all searches that are not over, without asking the database."""
        return {followed.handle for followed in list(self._followed.values())} - {""}

    def clear_errors(self, row: SearchRow) -> None:
        """A look at it has succeeded."""
        if row.id in self._followed:
            self._followed[row.id].num_errors = 0

    def _follow(self, row: SearchRow) -> FollowedSearch:
        return self._followed.setdefault(row.id, FollowedSearch(self._runs / row.id / EVENTS_FILE))

    def _ask_to_stop(self, row: SearchRow, followed: FollowedSearch) -> None:
        now = time.monotonic()
        if followed.stop_asked_at is None:
            followed.stop_asked_at = now
            self._launcher.interrupt(row.handle)
        elif now - followed.stop_asked_at > _PATIENCE_SECONDS:
            self._launcher.kill(row.handle)

    def _settle(self, row: SearchRow, followed: FollowedSearch, process_exit: ProcessExit) -> None:
        """Its process has ended: the search is over, or begins again."""
        last = followed.search_state.end
        last_event = last["event"] if last else ""
        is_refused = bool(process_exit.refusal) and not process_exit.is_temporary
        lacks_record = (self._runs / row.id / SPOOL_FILE).exists()
        if last_event == "concluded" and (row.wish == "stop" or is_refused or not lacks_record):
            self._finish(row)
        elif last_event == "concluded":
            self._postpone(row, followed, "MLflow lacks a part of its record")
        elif row.wish == "stop":
            self._end(row, "stopped")
        elif last_event == "failed":
            assert last is not None
            self._end(row, "failed", last["reason"])
        elif process_exit.is_temporary:
            self._postpone(row, followed, process_exit.refusal or process_exit.cause)
        elif process_exit.refusal:
            self._end(row, "failed", process_exit.refusal)
        else:
            self._restart(row, followed, process_exit)

    def _postpone(self, row: SearchRow, followed: FollowedSearch, reason: str) -> None:
        """Start it again after a pause: what it lacks may be there by then."""
        if followed.search_state.num_epochs > row.epochs:
            followed.restarts.reset()
        followed.restarts.fail()
        self._queue.update(row.id, handle="", reason=f"waits: {reason}")

    def _restart(self, row: SearchRow, followed: FollowedSearch, process_exit: ProcessExit) -> None:
        """Start it again at once, unless it has died too often without getting any further.

        What ended while there was no service, as with the machine, is not held against it.
        """
        has_got_on = followed.search_state.num_epochs > row.epochs
        losses = (0 if has_got_on else row.losses) + followed.was_seen
        if losses > MAX_LOSSES:
            reason = f"{process_exit.cause}, {losses} times without getting any further"
            self._end(row, "failed", reason)
            return
        _log.warning("%s is started again: %s", row.id, process_exit.cause)
        self._queue.update(row.id, handle="", losses=losses)
        row.losses, row.handle = losses, ""
        self.launch(row)

    def _finish(self, row: SearchRow) -> None:
        try:
            rows = finished_rows(row.kind, self._runs / row.id)
        except (OSError, ValueError, KeyError) as error:
            self._end(row, "failed", f"its results cannot be read: {error}")
            return
        self._architectures.put(row.id, rows)
        self._end(row, "finished")

    def _end(self, row: SearchRow, state: State, reason: str = "") -> None:
        self._queue.end(row.id, state, reason)
        self._followed.pop(row.id, None)

    def _store(self, row: SearchRow, followed: FollowedSearch, events: Sequence[Event]) -> None:
        """Write what the events tell into the database."""
        frame = newest_frame(events)
        values = {} if frame is None else {"frame": frame}
        progress = followed.search_state.progress()
        self._queue.update(row.id, progress=progress, reason="", **values)
        rows = architecture_rows(row.id, events)
        if rows:
            self._architectures.put(row.id, rows)
            front_keys = {network.key for network in followed.search_state.front}
            marked = followed.front_keys - {new.key for new in rows}
            joined, left = sorted(front_keys - marked), sorted(marked - front_keys)
            self._architectures.mark_front(row.id, joined, left)
            followed.front_keys = front_keys
        followed.is_stored = True
