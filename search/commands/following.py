"""A search that another process performs, shown as if it were this one's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from rich.console import Console

from pruning.errors import SearchFailedError, SearchStateError
from search.commands.conclusion import print_results
from search.commands.place import Listed, Place
from search.tracking.event_log import Replay
from search.tracking.search_state import Event
from search.tracking.terminal_progress import Progress


def follow_and_print(
    place: Place, name: str, console: Console, *, told: Sequence[str] = ()
) -> None:
    """Show the search from its beginning to its end, and what came of it.

    told: lines of its preflight that are on the screen already.
    Raises SearchFailedError or SearchStateError, with what to do, if it failed or was stopped.
    Ctrl-C ends with status 130, and leaves the search alone.
    """
    try:
        found = place.search(name)
        if found.state in ("failed", "stopped"):
            raise _not_finished(place, name, found)
        if found.state == "queued":
            console.print(f"{found.name} waits in the queue", highlight=False, markup=False)
        display = _Display(console, told)
        with display.progress.showing():
            for event in place.follow(name):
                display.take(event)
        found = place.search(name)
        if found.state != "finished":
            raise _not_finished(place, name, found)
        results = place.results(name)
        next_steps = place.next_steps(name, results)
    except KeyboardInterrupt:
        click.echo(
            f"\nNo longer watching; the search goes on. Watch it with  "
            f"{place.command(name, 'watch')}  or end it with  {place.command(name, 'stop')}",
            err=True,
        )
        sys.exit(130)
    print_results(results, next_steps, console)


class _Display:
    """Passes events on to the display of a search; its clock goes by their times."""

    def __init__(self, console: Console, told: Sequence[str]) -> None:
        self._console, self._told = console, list(told)
        self._seconds = 0.0
        self.progress = Progress(console, now=lambda: self._seconds)
        self._replay = Replay(self.progress)

    def take(self, event: Event) -> None:
        """One event after the other; those of a server's states say nothing to look at."""
        if "time_ms" in event:
            self._seconds = event["time_ms"] / 1000
        match event["event"]:
            case "launched":
                self.progress.begun()
                self._tell(event["lines"])
            case "expected":
                self.progress.expect(event["epochs"])
            case _:
                self._replay.take(event)

    def _tell(self, lines: Sequence[str]) -> None:
        if list(lines) != self._told:
            self._told = list(lines)
            for line in lines:
                self._console.print(line, highlight=False, soft_wrap=True)


def _not_finished(place: Place, name: str, found: Listed) -> SearchFailedError | SearchStateError:
    resume = place.command(name, "resume")
    match found.state:
        case "failed":
            return SearchFailedError(f"{found.name} has failed: {found.reason}")
        case "stopped":
            return SearchStateError(
                f"{found.name} is not over, and nobody is at work on it: go on with  {resume}"
            )
    return SearchStateError(f"{found.name} is {found.state} again: {place.command(name, 'watch')}")
