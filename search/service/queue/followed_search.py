"""A search that runs, as far as its events were read."""

from __future__ import annotations

import logging
from pathlib import Path

from search.system.backoff import Backoff
from search.tracking.event_file import Event, EventFile
from search.tracking.search_state import SearchState

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 60.0

_log = logging.getLogger(__name__)


class FollowedSearch:
    """What the service remembers of a search between two looks at it.

    handle: of its last process; empty if none is known.  was_seen: whether this service has started
    that or seen it at work.  stop_asked_at: when it was asked to end, by the monotonic clock.
    is_stored: whether what was read is in the database.  front_keys: architectures that are on the
    front there.  num_errors: bugs in a row at looking at it.  restarts: pauses before it is started
    again.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.search_state = EventFile(file), SearchState()
        self.handle, self.was_seen = "", False
        self.stop_asked_at: float | None = None
        self.is_stored = False
        self.front_keys: set[str] = set()
        self.num_errors = 0
        self.restarts = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)

    def read(self) -> list[Event]:
        """The events that came since the last call."""
        if self.file.is_another():
            self.search_state, self.front_keys = SearchState(), set()
        num_damaged, events = self.file.num_damaged, []
        for event in self.file.read():
            self.search_state.take(event)
            events.append(event)
        if self.file.num_damaged > num_damaged:
            _log.warning("%s: %s", self.file.path.parent.name, self.file.damage)
        return events
