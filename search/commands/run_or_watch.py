"""A search that is run here, or watched where it runs: what is shown of it until its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pruning.errors import SearchFailedError, SearchStateError
from pruning.lazy_imports import lazy_modules
from search.commands.interrupts import ending_on_interrupt, interrupt_on_signals
from search.commands.result_summary import print_results
from search.commands.runs_folder import RunsFolder
from search.commands.search_location import SearchEntry, SearchLocation
from search.config.explicit_settings import settings_key
from search.config.search_config import SearchConfig
from search.storage.layout import StudyKind

if TYPE_CHECKING:
    from search import models
    from search.commands import watch_display
    from search.commands.remote_server import RemoteServer
    from search.studies import search_study
    from search.tasks import registry as tasks
else:
    models, tasks, watch_display, search_study = lazy_modules(
        *("search.models", "search.tasks.registry", "search.commands.watch_display"),
        "search.studies.search_study",
    )


def run_here(config: SearchConfig) -> None:
    """Run or continue the search in this process and print what came of it.

    Ctrl-C ends with status 130; the same command goes on.
    """
    console = Console(highlight=False)
    own = models.own_module(config.model), config.data.own_module, tasks.own_module(config.task)
    trust = {"resume": own, "export": (models.module_to_trust(config.model),)}
    location, name = RunsFolder(config.runs, trust), str(config.directory)
    with stoppable(location, name):
        results = search_study.run(config, console=console).results
    print_results(results, location.next_steps(name, results), console)


@contextmanager
def stoppable(location: RunsFolder, name: str) -> Iterator[None]:
    """Says, where Ctrl-C or a signal ends the block, what is kept of the study and what goes on."""
    interrupt_on_signals()
    with ending_on_interrupt(
        f"Stopped. What was finished is kept in {name}, and what was under way up to its last "
        f"checkpoint: go on with  {location.command(name, 'resume')}"
    ):
        yield


def launch(server: RemoteServer, content: Mapping[str, Any], kind: StudyKind = "search") -> None:
    """Launch the study on the server, or go on with the one that these settings began there.

    It is then watched.
    """
    key = settings_key(content, kind)
    answer = server.client.launch(content, key=key, kind=kind)
    name = answer["id"]
    if answer["state"] in ("failed", "stopped"):
        server.client.resume(name)
    console = Console(highlight=False)
    if name != answer["name"]:
        console.print(
            f"{server.client.url} has another {answer['name']}: this {kind} is {name} there",
            markup=False,
            soft_wrap=True,
        )
    for line in answer["preflight"]:
        console.print(line, highlight=False, soft_wrap=True)
    watch(server, name, console, shown=answer["preflight"])


def watch(
    location: SearchLocation, name: str, console: Console, *, shown: Sequence[str] = ()
) -> None:
    """Show the search from its beginning to its end, and print what came of it.

    shown: lines of its preflight that are on the screen already.
    Raises SearchFailedError or SearchStateError, with what to do, if it failed or was stopped.
    Ctrl-C ends with status 130, and leaves the search alone.
    """
    with ending_on_interrupt(
        f"No longer watching; the search goes on. Watch it with  "
        f"{location.command(name, 'watch')}  or end it with  {location.command(name, 'stop')}"
    ):
        entry = location.search(name)
        if entry.state in ("failed", "stopped"):
            raise _not_finished(location, name, entry)
        if entry.state == "queued":
            console.print(f"{entry.name} waits in the queue", highlight=False, markup=False)
        display = watch_display.WatchDisplay(console, shown)
        with display.progress.showing():
            for event in location.follow(name):
                display.take(event)
        entry = location.search(name)
        if entry.state != "finished":
            raise _not_finished(location, name, entry)
        location.print_results(name, console)


def _not_finished(
    location: SearchLocation, name: str, entry: SearchEntry
) -> SearchFailedError | SearchStateError:
    match entry.state:
        case "failed":
            return SearchFailedError(f"{entry.name} has failed: {entry.reason}")
        case "stopped":
            resume = location.command(name, "resume")
            return SearchStateError(
                f"{entry.name} is not over, and nobody is at work on it: go on with  {resume}"
            )
    watching = location.command(name, "watch")
    return SearchStateError(f"{entry.name} is {entry.state} again: {watching}")
