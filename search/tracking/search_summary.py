"""How a search stands, kept beside its events, so that nobody reads all of them to be told.

The process of a search writes SUMMARY_FILE now and then, and at its end: a line with what people
are shown and the byte of the events that it holds for, and one with all that is needed to go on
from there. Whoever reads it takes the events behind that byte, few or none, and reads all of them
only where there is no summary, or one of other events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.storage.atomic_files import write_durably
from search.storage.layout import EVENTS_FILE, SUMMARY_FILE
from search.tasks.score import ACCURACY, Score
from search.tracking.event_file import Event, EventFile
from search.tracking.search_state import SearchState

_EVERY_BYTES = 2**18
"""Of events, after which a summary is written anew."""


@dataclass(frozen=True)
class SearchSummary:
    """How a search stands.

    last: its last event, None before the first.  progress: see SearchState.progress; None likewise.
    damage: lines that could not be read, in words.
    """

    last: Event | None = None
    progress: dict[str, Any] | None = None
    score: Score = ACCURACY
    damage: str = ""


class SummarisedEvents:
    """The events of a search, as far as they were read, and what they come to.

    state: what those that were read tell.  last: of them.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SUMMARY_FILE
        self._events = EventFile(folder / EVENTS_FILE)
        self.state, self.last = SearchState(), None  # type: SearchState, Event | None
        self._stored: list[str] = []
        self._summarised = 0
        try:
            self._stored = self._file.read_text(encoding="utf-8").splitlines()
            first = json.loads(self._stored[0])
            self._events.resume(first["offset"], first["num_damaged"], first["marks"])
            self._first = first
        except (OSError, ValueError, LookupError, TypeError):
            self._stored = []

    def summary(self) -> SearchSummary:
        """With all events that are there; OSError where they cannot be read."""
        if self._stored and self._events.is_at_end():
            first = self._first
            return SearchSummary(
                first["last"],
                first["progress"],
                Score.from_mapping(first["score"]),
                self._events.damage,
            )
        self.catch_up()
        progress = None if self.last is None else self.state.progress()
        return SearchSummary(self.last, progress, self.state.score, self._events.damage)

    def catch_up(self) -> None:
        """Read the events behind those that the summary holds for."""
        if self._stored:
            self._restore()
        for event in self._events.read():
            self.take(event, self._events.offset)

    def _restore(self) -> None:
        try:
            self.state = SearchState.from_mapping(json.loads(self._stored[1]))
            self.last = self._first["last"]
            self._summarised = self._events.offset
        except (ValueError, LookupError, TypeError):
            self._events.offset = self._events.num_damaged = 0
        self._stored = []

    def take(self, event: Event, offset: int) -> None:
        """Let an event count that ends at this byte."""
        self.state.take(event)
        self.last, self._events.offset = event, offset

    def write_now_and_then(self) -> None:
        """Write the summary, if there were many events since it was."""
        if self._events.offset - self._summarised >= _EVERY_BYTES:
            self.write()

    def write(self) -> None:
        """Write the summary. OSError if there is no room."""
        self._summarised = self._events.offset
        first = {
            "offset": self._events.offset,
            "num_damaged": self._events.num_damaged,
            "marks": self._events.marks(),
            "last": self.last,
            "progress": self.state.progress(),
            "score": self.state.score.to_mapping(),
        }
        lines = [
            json.dumps(part, separators=(",", ":")) for part in (first, self.state.to_mapping())
        ]
        write_durably(self._file, "".join(f"{line}\n" for line in lines).encode())


def summary_of(folder: Path) -> SearchSummary:
    """How the search in a folder stands; OSError where its events cannot be read."""
    return SummarisedEvents(folder).summary()
