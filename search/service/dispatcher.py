"""Takes searches from the queue, follows those that run, and brings back those that died."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import ServiceError
from search.durable import write_durably
from search.pareto import front
from search.service.launchers import Gone, Launcher
from search.service.searches import Searches
from search.service.tables import ArchitectureRow, SearchRow
from search.standing import CONFIG_FILE, FEED_FILE, RESULTS_FILE, Event, Standing, read_events

MOST_LOSSES = 5
"""So often may a search's process die in a row before it has got any further."""

_INTERVAL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass
class _Followed:
    """A search as far as its events were read."""

    file: Path
    standing: Standing = field(default_factory=Standing)
    offset: int = 0
    asked_at: float | None = None
    is_kept: bool = False

    def read(self) -> list[Event]:
        """The events that came since."""
        events = []
        for event, offset in read_events(self.file, self.offset):
            self.standing.take(event)
            self.offset = offset
            events.append(event)
        return events


class Dispatcher:
    """Keeps at most `max_running` searches running, in the order of the queue, over restarts.

    runs: folder of all searches.
    """

    def __init__(
        self, searches: Searches, launcher: Launcher, runs: Path, *, max_running: int
    ) -> None:
        self._searches, self._launcher = searches, launcher
        self._runs, self._max_running = runs, max_running
        self._followed: dict[str, _Followed] = {}
        self._told = ""
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
        """Whether the thread is at work."""
        return self._thread.is_alive()

    def close(self, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Interrupt what runs, which goes on when a service is started again, and end."""
        self._is_over.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        deadline = time.monotonic() + timeout_seconds
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
            except (ServiceError, SQLAlchemyError, OSError) as error:
                self._tell(f"the queue waits: {str(error).splitlines()[0]}")
            self._woken.wait(_INTERVAL_SECONDS)
            self._woken.clear()

    def step(self) -> None:
        """Look at all that run, then start what there is room for."""
        running = self._searches.running()
        for row in running:
            try:
                self._attend(row)
            except ServiceError as error:
                self._tell(f"{row.id} waits: {error}")
        room = self._max_running - len(self._searches.running())
        for row in self._searches.take_next(room) if room > 0 else ():
            self._launch(row)

    def _tell(self, line: str) -> None:
        """Log what keeps the queue waiting, once until it is something else."""
        if line != self._told:
            self._told = line
            _log.warning("%s", line)

    # ---- one search

    def _attend(self, row: SearchRow) -> None:
        if not row.handle:
            if row.wish == "stop":
                self._searches.end(row.id, "stopped")
            else:
                self._launch(row)
            return
        gone = self._launcher.poll(row.handle)
        followed = self._follow(row)
        events = followed.read()
        if events or not followed.is_kept:
            self._keep(row, followed.standing, events)
            followed.is_kept = True
        if gone is not None:
            self._bury(row, followed.standing, gone)
        elif row.wish == "stop":
            self._ask_to_stop(row, followed)

    def _launch(self, row: SearchRow) -> None:
        folder = self._runs / row.id
        folder.mkdir(parents=True, exist_ok=True)
        # what was checked is what runs, whatever has become of the file
        write_durably(folder / CONFIG_FILE, json.dumps(row.settings, indent=2).encode())
        followed = self._follow(row)
        followed.read()
        self._searches.note(row.id, launches=row.launches + 1, epochs=followed.standing.num_epochs)
        try:
            handle = self._launcher.launch(row.id, row.launches + 1)
        except ServiceError as error:
            self._tell(f"{row.id} waits: {error}")
            return
        followed.asked_at = None
        self._searches.note(row.id, handle=handle)

    def _follow(self, row: SearchRow) -> _Followed:
        return self._followed.setdefault(row.id, _Followed(self._runs / row.id / FEED_FILE))

    def _ask_to_stop(self, row: SearchRow, followed: _Followed) -> None:
        now = time.monotonic()
        if followed.asked_at is None:
            followed.asked_at = now
            self._launcher.interrupt(row.handle)
        elif now - followed.asked_at > _PATIENCE_SECONDS:
            self._launcher.kill(row.handle)

    def _bury(self, row: SearchRow, standing: Standing, gone: Gone) -> None:
        """Its process is no more: it is over, or begins again."""
        how = standing.end["event"] if standing.end else ""
        if how == "concluded":
            self._conclude(row)
        elif row.wish == "stop":
            self._end(row, "stopped")
        elif how == "failed":
            assert standing.end is not None
            self._end(row, "failed", standing.end["reason"])
        elif gone.refusal:
            self._end(row, "failed", gone.refusal)
        else:
            self._bring_back(row, standing, gone)

    def _bring_back(self, row: SearchRow, standing: Standing, gone: Gone) -> None:
        has_got_on = standing.num_epochs > row.epochs
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

    def _keep(self, row: SearchRow, standing: Standing, events: Sequence[Event]) -> None:
        frames = [event for event in events if event["event"] == "launched"]
        frame = {"frame": frame_of(frames[-1])} if frames else {}
        self._searches.note(row.id, progress=standing.progress(), **frame)
        outcomes = [
            outcome
            for event in events
            if event["event"] == "finished"
            for outcome in event["outcomes"]
        ]
        if outcomes:
            known = self._searches.architectures(row.id, bounds={}, on_front=False)
            rows = {found.key: found for found in known}
            rows |= {outcome["key"]: architecture_row(row.id, outcome) for outcome in outcomes}
            best = {found.key for found in front(list(rows.values()))}
            for found in rows.values():
                found.on_front = found.key in best
            self._searches.put_architectures(row.id, list(rows.values()))

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
    """The row of an outcome, which is a search.tasks.Outcome as a mapping."""
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
