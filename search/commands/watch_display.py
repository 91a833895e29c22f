"""The display of a search that another process performs, as if it were this one's."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from search.tasks.score import Score
from search.tracking.event_file import Event
from search.tracking.event_log import Replay
from search.tracking.terminal_progress import Progress


class WatchDisplay:
    """Passes events on to the display of a search; its clock goes by their times.

    shown: lines of the preflight that are on the screen already.
    """

    def __init__(self, console: Console, shown: Sequence[str] = ()) -> None:
        self._console, self._shown = console, list(shown)
        self._seconds = 0.0
        self.progress = Progress(console, now=lambda: self._seconds)
        self._replay = Replay(self.progress)

    def take(self, event: Event) -> None:
        """Show one event after the other; those about a server's states show nothing."""
        if "time_ms" in event:
            self._seconds = event["time_ms"] / 1000
        match event["event"]:
            case "launched":
                self.progress.begun(Score.from_mapping(event.get("score")))
                self._show(event["lines"])
            case "expected":
                self.progress.expect(event["epochs"])
            case _:
                self._replay.take(event)

    def _show(self, lines: Sequence[str]) -> None:
        if list(lines) != self._shown:
            self._shown = list(lines)
            for line in lines:
                self._console.print(line, highlight=False, soft_wrap=True)
