"""What those who follow a search spend on each trial of it: list, service, streams, pages."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

import mlflow_server
from search.commands.result_summary import print_results
from search.commands.runs_folder import RunsFolder
from search.config.search_config import SearchConfig
from search.results.html_report import report_page
from search.results.report import Results
from search.scheduling.optuna_study import study_storage
from search.service.api.event_blocks import EventBlocks
from search.service.api.trial_state import TrialStates
from search.service.database.connection import open_database
from search.service.database.idempotency import IdempotencyKey
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.tables import SearchRow
from search.service.database.transactions import Database
from search.service.queue.launcher import Launcher, ProcessExit
from search.service.queue.supervisor import Supervisor
from search.service.runs_folder import RunsFolder as ServedFolder
from search.storage.layout import EVENTS_FILE
from search.studies.publishing import certified_results, publish
from search.studies.search_stages import trial_source
from search.studies.session import Session
from search.trials.jobs import Outcome

WATCHERS = (1, 10, 100)


def milliseconds(act: Callable[[], object]) -> float:
    """Of this process's processors."""
    begun = time.process_time()
    act()
    return 1000 * (time.process_time() - begun)


class _Idle(Launcher):
    """Its processes neither begin nor end."""

    def launch(self, search_id: str, attempt: int) -> str:
        return f"{search_id}/{attempt}"

    def poll(self, handle: str) -> ProcessExit | None:  # noqa: ARG002
        return None

    def interrupt(self, handle: str) -> None:
        """Nothing runs."""

    def kill(self, handle: str) -> None:
        """Nothing runs."""


def by_trial(folder: Path) -> list[bytes]:
    """The events of a search, cut behind each trial that is settled."""
    parts, part = [], b""
    for line in (folder / EVENTS_FILE).read_bytes().splitlines(keepends=True):
        part += line
        if line.startswith(b'{"event":"finished"'):
            parts.append(part)
            part = b""
    return parts


@contextlib.contextmanager
def _growing(name: str) -> Iterator[tuple[Path, Path]]:
    """A folder of runs with that of one search, and its file of events."""
    with TemporaryDirectory() as folder:
        home = Path(folder) / name
        home.mkdir()
        yield Path(folder), home / EVENTS_FILE


def of_service(parts: Sequence[bytes]) -> list[float]:
    """Milliseconds of the supervisor per settled trial, database and all."""
    with _growing("growth") as (runs, events):
        database = Database(open_database(f"sqlite:///{runs / 'service.db'}"))
        key = IdempotencyKey("", "", "")
        Searches(database).add("growth", {}, key=key, is_taken=lambda _: False, frame={})
        supervisor, queue = Supervisor(database, _Idle(), runs), SearchQueue(database)
        (row,) = queue.take_next(1)
        supervisor.launch(row)
        spent = []
        for part in parts:
            with events.open("ab") as stream:
                stream.write(part)
            (row,) = queue.running()
            spent.append(milliseconds(lambda row=row: supervisor.attend(row)))  # type: ignore[misc]
        database.engine.dispose()
        return spent


def of_trials_page(parts: Sequence[bytes]) -> list[float]:
    """Milliseconds of the page of trials, asked for at each settled trial."""
    with _growing("growth") as (runs, events):
        states, spent = TrialStates(ServedFolder(runs)), []
        for part in parts:
            with events.open("ab") as stream:
                stream.write(part)

            def page() -> str:
                trials = states.of("growth")
                assert trials is not None
                return json.dumps([trial.summary() for trial in trials.all[:200]])

            spent.append(milliseconds(page))
        return spent


def of_streams(parts: Sequence[bytes], watchers: int) -> float:
    """Microseconds per event and watcher of streams that follow a search to its end."""
    row = SearchRow(id="growth", state="running", created_ms=1)
    num_events = sum(part.count(b"\n") for part in parts)
    with _growing("growth") as (runs, events):
        events.touch()

        async def follow_all() -> None:
            blocks, offsets = EventBlocks(ServedFolder(runs)), [0] * watchers

            async def follow(watcher: int) -> None:
                size = events.stat().st_size
                while offsets[watcher] < size:
                    block = await blocks.behind(row, offsets[watcher])
                    assert block is not None
                    offsets[watcher] = block[1]

            for part in parts:
                with events.open("ab") as stream:
                    stream.write(part)
                await asyncio.gather(*map(follow, range(watchers)))

        spent = milliseconds(lambda: asyncio.run(follow_all()))
    return 1000 * spent / num_events / watchers


def of_list(config: SearchConfig) -> float:
    """Milliseconds of a row of `espalier list`."""
    return milliseconds(lambda: RunsFolder(config.runs).search(config.study_name))


def of_resume(session: Session) -> float:
    """Milliseconds until a search that goes on knows what it has."""
    context = session.context
    return milliseconds(
        lambda: trial_source(context, session.data, study_storage(context.directory)).outcomes
    )


def of_results(session: Session, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Milliseconds of the end of a search, by what is made there."""
    folder, made = session.context.directory, {}
    results: list[Results] = []
    made["certify"] = milliseconds(lambda: results.append(certified_results(session, outcomes)))
    made["write results, plots, report"] = milliseconds(lambda: publish(session, results[0]))
    made["report page alone"] = milliseconds(lambda: report_page(folder))
    console = Console(file=io.StringIO(), width=120)
    shown = milliseconds(lambda: print_results(results[0], "", console))
    return {**made, "tables of the terminal": shown}


def of_views(uri: str, name: str) -> float:
    """Milliseconds until the views of a search are in MLflow."""
    return milliseconds(lambda: mlflow_server.view_links(uri, name))
