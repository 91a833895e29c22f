"""What one more trial costs does not depend on how many there were: counted, not timed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from samples import epoch_record, outcome, trial_job

from copycat.architecture.whole_folder import opened_folder
from mlflow_server import MemoryRecorder, append_log
from pruning import Budget
from search.commands.runs_folder import RunsFolder
from search.scheduling.compute_budget import ComputeBudget
from search.scheduling.optuna_study import StudySource, open_study, study_storage, trial_number
from search.service.api.event_blocks import EventBlocks
from search.service.api.trial_state import TrialStates
from search.service.database.tables import SearchRow
from search.service.queue.followed_search import FollowedSearch
from search.service.runs_folder import RunsFolder as ServedFolder
from search.storage import atomic_files
from search.storage.layout import CURVE_FILE, EVENTS_FILE, SPENT_FILE, SUMMARY_FILE
from search.studies.search_study import search_run
from search.tasks.score import ACCURACY, Score
from search.tracking import event_file, mlflow_record
from search.tracking.event_file import EventFile
from search.tracking.event_log import EventLog
from search.tracking.mlflow_record import MlflowRecord
from search.tracking.mlflow_runs import StudyRuns
from search.tracking.search_state import SearchState
from search.tracking.search_summary import SummarisedEvents, summary_of
from search.trials.job_context import JobContext
from search.trials.jobs import Outcome, TrialJob
from search.trials.search_space import SearchSpace, sampler

EARLY, LATE = 10, 300
SPACE = SearchSpace(1000.0, (200.0, 1000.0))


class Counter:
    """Counts calls of a function, or what it says of each."""

    def __init__(self) -> None:
        self.count = 0

    def wrap(self, function: Callable[..., Any], size: Callable[..., int] = lambda *_: 1) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += size(*arguments)
            return function(*arguments, **named)

        return counted

    @contextmanager
    def of(self, costs: list[int]) -> Iterator[None]:
        """Adds to the costs what is counted inside the block."""
        before = self.count
        yield
        costs.append(self.count - before)


def require_constant(costs: list[int]) -> None:
    """The last ones of many are as those after the first few."""
    assert len(costs) == LATE
    early, late = sum(costs[EARLY : 2 * EARLY]), sum(costs[-EARLY:])
    assert 0 < late <= early * 1.1, f"{early} for ten at {EARLY}, {late} for ten at {LATE}"


def found(number: int) -> Outcome:
    return outcome(
        f"fine-tuned-{number}",
        trial=number,
        flops=100 + number * 37 % 500,
        validation_score=(number * 7 % 11) / 11,
    )


def events_of(number: int) -> list[dict[str, Any]]:
    job = trial_job(number)
    contents: list[dict[str, Any]] = [
        {"event": "started", "job": dataclasses.asdict(job)},
        *({"event": "epochs", "records": [vars(epoch_record(step, 2))]} for step in (1, 2)),
        {"event": "finished", "outcomes": [found(number).to_mapping()]},
    ]
    return [{"time_ms": 1000 + number, "key": job.key, **content} for content in contents]


def launched() -> dict[str, Any]:
    base = {"flops": 2000, "params": 200}
    content = {"event": "launched", "time_ms": 1, "pid": 1, "lines": [], "trials": LATE}
    return {**content, "base": base, "limits": {}}


def append(file: Path, *events: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def lines_read(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Of the events of searches."""
    counter, read = Counter(), append_log.whole_lines

    def counted(*arguments: Any) -> Iterator[Any]:
        for line in read(*arguments):
            counter.count += 1
            yield line

    monkeypatch.setattr(event_file, "whole_lines", counted)
    return counter


def test_a_trial_is_asked_for_and_told_of_without_a_look_at_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counter, read = Counter(), Outcome.from_mapping.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Outcome, "from_mapping", classmethod(counter.wrap(read)))
    source = StudySource(
        open_study(study_storage(tmp_path), "a-search", ACCURACY),
        lambda trial: TrialJob(trial_number(trial), SPACE.propose(trial)),
        lambda seed: sampler("random", seed, LATE),
        Budget.parse("flops=1000"),
        LATE,
        seed=0,
    )
    costs: list[int] = []
    while len(source):
        with counter.of(costs):
            job = source.next()
            assert isinstance(job, TrialJob)
            source.finished(job, [found(job.number)])
    require_constant(costs)


def test_the_ledger_of_images_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counter, write = Counter(), os.write
    size = lambda _, content: len(content)  # noqa: E731
    monkeypatch.setattr(os, "write", counter.wrap(write, size))
    durably = counter.wrap(atomic_files.write_durably, size)
    monkeypatch.setattr("search.scheduling.compute_budget.write_durably", durably)

    def opened() -> ComputeBudget:
        file = tmp_path / SPENT_FILE
        return ComputeBudget(file, lambda _: 100, seconds=None, images=None, num_workers=1)

    budget, costs = opened(), []  # type: ComputeBudget, list[int]
    for number in range(LATE):
        job = trial_job(number)
        with counter.of(costs):
            budget.started(job)
            budget.epochs(job, [epoch_record(images=100)])
            budget.finished(job, [])
    require_constant(costs)
    assert opened().images_spent == LATE * 100
    assert opened().images_left(trial_job(5)) == 0


def test_an_architecture_is_opened_without_a_scan_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counter = Counter()
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, counter.wrap(getattr(os, name)))
    folder = tmp_path / "network"
    folder.mkdir()
    assert opened_folder(folder) == folder
    assert counter.count == 0


def test_a_curve_is_read_once(context: JobContext, monkeypatch: pytest.MonkeyPatch):
    counter = Counter()
    monkeypatch.setattr(mlflow_record, "stored_curve", counter.wrap(mlflow_record.stored_curve))
    runs = StudyRuns(MemoryRecorder("small"), search_run(context))
    runs.begin()
    record = MlflowRecord(runs, context.directory)
    folder = context.directory / found(0).path
    folder.mkdir(parents=True)
    (folder / CURVE_FILE).write_text(json.dumps([vars(epoch_record(time_ms=7))]))
    record.started(trial_job())
    record.finished(trial_job(), [found(0)])
    assert counter.count == 1


def test_the_state_of_a_search_compares_no_two_networks_again(monkeypatch: pytest.MonkeyPatch):
    """What the service does at each event: count, keep the front, tell of progress."""
    counter = Counter()
    monkeypatch.setattr(Score, "key", counter.wrap(Score.key))
    state, costs = SearchState(), []  # type: SearchState, list[int]
    state.take(launched())
    for number in range(LATE):
        for event in events_of(number):
            state.take(event)
        with counter.of(costs):
            state.progress()
            _ = state.front
    assert costs == [0] * LATE
    assert state.progress()["trials"]["finished"] == len(state.networks) == LATE


def test_the_service_reads_what_is_new(tmp_path: Path, lines_read: Counter):
    file = tmp_path / EVENTS_FILE
    append(file, launched())
    followed, costs = FollowedSearch(file), []  # type: FollowedSearch, list[int]
    for number in range(LATE):
        append(file, *events_of(number))
        with lines_read.of(costs):
            followed.read()
    require_constant(costs)


def test_the_trials_of_a_search_are_read_as_they_come(tmp_path: Path, lines_read: Counter):
    folder = tmp_path / "a-search"
    folder.mkdir()
    append(folder / EVENTS_FILE, launched())
    trials, costs = TrialStates(ServedFolder(tmp_path)), []  # type: TrialStates, list[int]
    for number in range(LATE):
        append(folder / EVENTS_FILE, *events_of(number))
        with lines_read.of(costs):
            states = trials.of("a-search")
    require_constant(costs)
    assert states is not None
    assert [trial.number for trial in states.all] == list(range(LATE))
    curve = states.details(states.all[7])["curve"]
    assert [epoch["step"] for epoch in curve] == [1, 2]


@pytest.mark.parametrize("watchers", [1, 20])
def test_streams_share_what_they_read(tmp_path: Path, lines_read: Counter, watchers: int):
    """Each event is read once, however many follow the search and wherever they began."""
    folder = tmp_path / "a-search"
    folder.mkdir()
    append(folder / EVENTS_FILE, launched())
    row = SearchRow(id="a-search", state="running", created_ms=1)
    offsets, received = [0] * watchers, [b""] * watchers

    async def follow(blocks: EventBlocks, watcher: int) -> None:
        while (block := await blocks.behind(row, offsets[watcher])) is not None:
            received[watcher] += block[0]
            offsets[watcher] = block[1]

    async def follow_all() -> None:
        blocks = EventBlocks(ServedFolder(tmp_path))
        for number in range(50):
            append(folder / EVENTS_FILE, *events_of(number))
            for group in (range(0, watchers, 2), range(1, watchers, 2)):
                await asyncio.gather(*(follow(blocks, watcher) for watcher in group))

    asyncio.run(follow_all())
    assert lines_read.count == 1 + 50 * 4
    assert len(set(received)) == 1
    assert received[0].count(b"event: ") == 1 + 50 * 4


# ---- how a search stands


@pytest.fixture
def logged(context: JobContext) -> Path:
    """The folder of a search of LATE trials that has ended."""
    context.directory.mkdir(parents=True)
    (context.directory / "search.json").write_text("{}")
    with EventLog(context, "search", LATE) as event_log:
        event_log.expect(2 * LATE)
        for number in range(LATE):
            job = trial_job(number)
            event_log.started(job)
            event_log.epochs(job, [epoch_record(1)])
            event_log.epochs(job, [epoch_record(2)])
            event_log.finished(job, [found(number)])
    return context.directory


def told(folder: Path) -> SearchState:
    state = SearchState()
    for event in EventFile(folder / EVENTS_FILE).read():
        state.take(event)
    return state


def test_a_search_that_is_over_is_listed_without_its_events(logged: Path, lines_read: Counter):
    (entry,) = RunsFolder(str(logged.parent)).searches()
    assert lines_read.count == 0
    expected = told(logged)
    assert entry.progress == expected.progress()
    assert (entry.trials_done, entry.num_networks) == (LATE, LATE)
    assert entry.score == expected.score


def test_of_a_search_that_goes_on_the_newest_events_are_read(logged: Path, lines_read: Counter):
    """Also those of jobs and networks that the summary has, which count once."""
    append(logged / EVENTS_FILE, *events_of(LATE), *events_of(3))
    summary = summary_of(logged)
    assert lines_read.count == 8
    expected = told(logged)
    assert summary.progress == expected.progress()
    assert summary.progress is not None
    assert summary.progress["networks"] == LATE + 1
    assert summary.last is not None
    assert summary.last["event"] == "finished"


@pytest.mark.parametrize(
    "damage", ["gone", "empty", "half", "of another file", "of another end", "no state"]
)
def test_without_a_summary_that_fits_all_events_are_read(logged: Path, damage: str):
    file = logged / SUMMARY_FILE
    first, second = file.read_text().splitlines()
    match damage:
        case "gone":
            file.unlink()
        case "empty":
            file.write_text("")
        case "half":
            file.write_text(first[:40])
        case "of another file":
            events = (logged / EVENTS_FILE).read_text()
            (logged / EVENTS_FILE).write_text(events.replace('"time_ms":1', '"time_ms":2'))
        case "of another end":
            *lines, last = (logged / EVENTS_FILE).read_text().splitlines(keepends=True)
            failed = json.dumps({**json.loads(last), "event": "failed", "reason": "no luck"})
            (logged / EVENTS_FILE).write_text("".join([*lines, failed + "\n"]))
        case "no state":
            file.write_text(f"{first}\n{second[:50]}\n")
            append(logged / EVENTS_FILE, *events_of(LATE))
    summary, expected = summary_of(logged), told(logged)
    assert summary.progress == expected.progress()
    assert summary.last is not None
    assert (summary.last["event"] == "failed") == (damage == "of another end")


def test_a_summary_is_written_now_and_then(
    tmp_path: Path, lines_read: Counter, monkeypatch: pytest.MonkeyPatch
):
    """So that a search that was killed is not read from its beginning, either."""
    monkeypatch.setattr("search.tracking.search_summary._EVERY_BYTES", 10_000)
    file = tmp_path / EVENTS_FILE
    writer = SummarisedEvents(tmp_path)
    for event in [launched(), *(e for number in range(LATE) for e in events_of(number))]:
        append(file, event)
        writer.take(event, file.stat().st_size)
        writer.write_now_and_then()
    append(file, events_of(LATE)[0])  # which may have come just after a summary was written
    before = lines_read.count
    assert summary_of(tmp_path).progress == told(tmp_path).progress()
    num_in_tail = lines_read.count - before - (2 + LATE * 4)
    assert 0 < num_in_tail < 60
