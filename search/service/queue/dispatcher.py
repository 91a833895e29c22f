"""Takes searches from the queue, follows those that run, and brings back those that died."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import ServiceError, first_line
from search.service.database.searches import Searches
from search.service.database.tables import ArchitectureRow, SearchRow
from search.service.queue.launcher import Gone, Launcher
from search.service.throttled_log import Announcements
from search.storage.durable import write_durably
from search.storage.layout import CONFIG_FILE, EVENTS_FILE, RESULTS_FILE, SPOOL_FILE
from search.tracking.search_state import Event, EventFile, SearchState
from search.trials.pareto import front

MOST_LOSSES = 5
"""So often may a search's process die in a row before it has got any further."""

_MOST_ERRORS = 20
"""So often in a row may following a search go wrong in a way that nobody foresaw."""

_INTERVAL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
_CLOSING_SECONDS = 5.0
_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 2.0, 60.0
"""Before a search is started again that refuses for now; doubled each time."""

_STUCK_SECONDS = 60.0
"""So long may one look at everything take before the queue counts as stuck."""

_WAITED_FOR = (ServiceError, SQLAlchemyError, OSError)
"""What goes by without anybody's doing: a cluster, the database or a disk is away."""

_log = logging.getLogger(__name__)


class _Followed:
    """A search as far as its events were read."""

    def __init__(self, file: Path) -> None:
        self.file, self.search_state = EventFile(file), SearchState()
        self.asked_at: float | None = None
        self.is_kept = False
        self.on_front: set[str] = set()
        self.errors = 0
        self._pause, self._not_before = 0.0, 0.0

    def read(self) -> list[Event]:
        """The events that came since."""
        if self.file.is_another():
            self.search_state, self.on_front = SearchState(), set()
        damaged, events = self.file.num_damaged, []
        for event in self.file.read():
            self.search_state.take(event)
            events.append(event)
        if self.file.num_damaged > damaged:
            _log.warning("%s: %s", self.file.path.parent.name, self.file.damage)
        return events

    def wait(self) -> None:
        """Start it again after a pause, that is longer each time."""
        self._pause = min(max(2 * self._pause, _PAUSE_SECONDS), _MOST_PAUSE_SECONDS)
        self._not_before = time.monotonic() + self._pause

    @property
    def is_waiting(self) -> bool:
        """Whether the pause lasts."""
        return time.monotonic() < self._not_before


class Dispatcher:
    """Keeps at most `max_running` searches running, in the order of the queue, over restarts.

    runs: folder of all searches.  require_sole_use: raises ServiceError while another service
    may be at work on the same queue.
    """

    def __init__(
        self,
        searches: Searches,
        launcher: Launcher,
        runs: Path,
        *,
        max_running: int,
        require_sole_use: Callable[[], None] = lambda: None,
    ) -> None:
        self._searches, self._launcher = searches, launcher
        self._require_sole_use = require_sole_use
        self._runs, self._max_running = runs, max_running
        self._followed: dict[str, _Followed] = {}
        self._announcements = Announcements(_log)
        self._looked_at = time.monotonic()
        self._woken, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Work in a thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._woken.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is at work, and gets on with it."""
        is_stuck = time.monotonic() - self._looked_at > _STUCK_SECONDS
        return self._thread.is_alive() and not is_stuck

    def close(self, timeout_seconds: float = _CLOSING_SECONDS) -> None:
        """Interrupt what runs, which goes on when a service is started again, and end.

        timeout_seconds: how long to wait for them; they end without this process as well.
        """
        self._is_over.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        with suppress(*_WAITED_FOR):  # what is away cannot be asked
            waiting = [row for row in self._searches.running() if row.handle]
            for row in waiting:
                self._launcher.interrupt(row.handle)
            while waiting and time.monotonic() < deadline:
                waiting = [row for row in waiting if self._launcher.poll(row.handle) is None]
                time.sleep(0.1)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self.step()
            except Exception as error:  # whatever it is, the queue goes on
                self._tell("the queue", error)
            else:
                self._looked_at = time.monotonic()
                self._announcements.over("the queue")
            self._woken.wait(_INTERVAL_SECONDS)
            self._woken.clear()

    def step(self) -> None:
        """Look at all that run, then start what there is room for."""
        self._require_sole_use()
        for row in self._searches.running():
            self._alone(row, self._attend)
        room = self._max_running - len(self._searches.running())
        for row in self._searches.take_next(room) if room > 0 else ():
            self._alone(row, self._launch)

    def _alone(self, row: SearchRow, do: Callable[[SearchRow], None]) -> None:
        """An error of one search is its own: the others get their turn."""
        try:
            do(row)
        except Exception as error:  # as it says
            self._tell(row.id, error)
            if not isinstance(error, _WAITED_FOR):
                self._count_error(row, error)
        else:
            self._announcements.over(row.id)
            self._follow(row).errors = 0

    def _count_error(self, row: SearchRow, error: Exception) -> None:
        """Give a search up that goes wrong at every look, in a way that no waiting mends."""
        followed = self._follow(row)
        followed.errors += 1
        if followed.errors > _MOST_ERRORS:
            if row.handle:
                self._launcher.kill(row.handle)
            reason = f"the service cannot follow it: {type(error).__name__}: {first_line(error)}"
            self._end(row, "failed", reason)

    def _tell(self, what: str, error: Exception) -> None:
        """Log what keeps something waiting."""
        if isinstance(error, _WAITED_FOR):
            self._announcements.say(what, f"waits: {first_line(error)}")
        else:
            self._announcements.say(what, first_line(error), bug=error)

    # ---- one search

    def _attend(self, row: SearchRow) -> None:
        followed = self._follow(row)
        if not row.handle:
            if row.wish == "stop":
                followed.read()
                self._bury(row, followed, Gone("it was not begun again"))
            elif not followed.is_waiting:
                self._launch(row)
            return
        gone = self._launcher.poll(row.handle)
        events = followed.read()
        if events or not followed.is_kept:
            self._keep(row, followed.search_state, events)
            followed.is_kept = True
        if gone is not None:
            self._bury(row, followed, gone)
        elif row.wish == "stop":
            self._ask_to_stop(row, followed)
        else:
            followed.asked_at = None

    def _launch(self, row: SearchRow) -> None:
        folder = self._runs / row.id
        folder.mkdir(parents=True, exist_ok=True)
        # what was checked is what runs, whatever has become of the file
        write_durably(folder / CONFIG_FILE, json.dumps(row.settings, indent=2).encode())
        followed = self._follow(row)
        followed.read()
        self._searches.note(
            row.id, launches=row.launches + 1, epochs=followed.search_state.num_epochs
        )
        handle = self._launcher.launch(row.id, row.launches + 1)
        followed.asked_at = None
        self._searches.note(row.id, handle=handle)

    def _follow(self, row: SearchRow) -> _Followed:
        return self._followed.setdefault(row.id, _Followed(self._runs / row.id / EVENTS_FILE))

    def _ask_to_stop(self, row: SearchRow, followed: _Followed) -> None:
        now = time.monotonic()
        if followed.asked_at is None:
            followed.asked_at = now
            self._launcher.interrupt(row.handle)
        elif now - followed.asked_at > _PATIENCE_SECONDS:
            self._launcher.kill(row.handle)

    def _bury(self, row: SearchRow, followed: _Followed, gone: Gone) -> None:
        """Its process is no more: it is over, or begins again."""
        end = followed.search_state.end
        how = end["event"] if end else ""
        is_refused = bool(gone.refusal) and not gone.is_passing
        lacks_record = (self._runs / row.id / SPOOL_FILE).exists()
        if how == "concluded" and (row.wish == "stop" or is_refused or not lacks_record):
            self._conclude(row)
        elif how == "concluded":
            self._put_off(row, followed, "MLflow lacks a part of its record")
        elif row.wish == "stop":
            self._end(row, "stopped")
        elif how == "failed":
            assert end is not None
            self._end(row, "failed", end["reason"])
        elif gone.is_passing:
            self._put_off(row, followed, gone.refusal or gone.why)
        elif gone.refusal:
            self._end(row, "failed", gone.refusal)
        else:
            self._bring_back(row, followed.search_state, gone)

    def _put_off(self, row: SearchRow, followed: _Followed, why: str) -> None:
        """Start it again after a pause: what it lacks may be there by then."""
        followed.wait()
        self._searches.note(row.id, handle="", reason=f"waits: {why}")

    def _bring_back(self, row: SearchRow, search_state: SearchState, gone: Gone) -> None:
        has_got_on = search_state.num_epochs > row.epochs
        losses = 1 if has_got_on else row.losses + 1
        if losses > MOST_LOSSES:
            reason = f"{gone.why}, {losses} times without getting any further"
            self._end(row, "failed", reason)
            return
        _log.warning("%s is started again: %s", row.id, gone.why)
        self._searches.note(row.id, handle="", losses=losses)
        row.losses, row.handle = losses, ""
        self._launch(row)

    def _end(self, row: SearchRow, state: Any, reason: str = "") -> None:
        self._searches.end(row.id, state, reason)
        self._followed.pop(row.id, None)

    # ---- what is kept of it

    def _keep(self, row: SearchRow, search_state: SearchState, events: Sequence[Event]) -> None:
        frames = [event for event in events if event["event"] == "launched"]
        frame = {"frame": frame_of(frames[-1])} if frames else {}
        self._searches.note(row.id, progress=search_state.progress(), reason="", **frame)
        outcomes = {
            outcome["key"]: outcome
            for event in events
            if event["event"] == "finished"
            for outcome in event["outcomes"]
        }
        if outcomes:
            rows = [architecture_row(row.id, outcome) for outcome in outcomes.values()]
            self._searches.put_architectures(row.id, rows)
            best = {found.key for found in front(list(search_state.networks.values()))}
            before = self._follow(row).on_front - outcomes.keys()
            self._searches.mark_front(row.id, sorted(best - before), sorted(before - best))
            self._follow(row).on_front = best

    def _conclude(self, row: SearchRow) -> None:
        try:
            rows = finished_rows(row.id, self._runs / row.id)
        except (OSError, ValueError, KeyError) as error:
            self._end(row, "failed", f"its results cannot be read: {error}")
            return
        self._searches.put_architectures(row.id, rows)
        self._end(row, "finished")


def frame_of(launched: Event) -> dict[str, Any]:
    """What a front is read against: base cost, limits, and the lines of the preflight."""
    return {name: launched[name] for name in ("base", "limits", "lines")}


def architecture_row(
    search_id: str, outcome: dict[str, Any], *, on_front: bool = False
) -> ArchitectureRow:
    """The row of an outcome, which is a search.trials.jobs.Outcome as a mapping."""
    names = ("key", "origin", "flops", "params", "validation_accuracy")
    return ArchitectureRow(
        search_id=search_id,
        on_front=on_front,
        outcome=outcome,
        **{name: outcome[name] for name in names},
    )


def finished_rows(search_id: str, folder: Path) -> list[ArchitectureRow]:
    """The architectures of a finished search, from its results file."""
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    best = {outcome["key"] for outcome in results["front"]}
    return [
        architecture_row(search_id, outcome, on_front=outcome["key"] in best)
        for outcome in results["everything"]
    ]
