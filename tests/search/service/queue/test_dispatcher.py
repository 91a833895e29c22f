"""The queue: what runs, what is brought back, and what it ends in."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import ABSOLUTE_ERROR, base_outcome, outcome
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pruning.errors import ServiceError
from search.service.database.architectures import Architectures
from search.service.database.connection import open_database
from search.service.database.idempotency import IdempotencyKey
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.tables import SearchRow
from search.service.database.transactions import Database
from search.service.queue.dispatcher import Dispatcher
from search.service.queue.launcher import Launcher, ProcessExit
from search.service.queue.supervisor import MAX_LOSSES
from search.service.schemas import SearchSummary
from search.storage.layout import EVENTS_FILE, SPOOL_FILE

BASE = {"flops": 2000, "params": 200}
AWAY = ProcessExit("status 75", "MLflow is away", is_temporary=True)


class FakeLauncher(Launcher):
    """Starts nothing; the test says when a process is gone."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, int]] = []
        self.gone: dict[str, ProcessExit] = {}
        self.interrupted: list[str] = []
        self.killed: list[str] = []
        self.error: ServiceError | None = None

    def launch(self, search_id: str, attempt: int) -> str:
        if self.error is not None:
            raise self.error
        self.launched.append((search_id, attempt))
        return f"{search_id}/{attempt}"

    def poll(self, handle: str) -> ProcessExit | None:
        if self.error is not None:
            raise self.error
        return self.gone.get(handle)

    def interrupt(self, handle: str) -> None:
        self.interrupted.append(handle)

    def kill(self, handle: str) -> None:
        self.killed.append(handle)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(open_database(f"sqlite:///{tmp_path / 'service.db'}"))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def dispatcher(database: Database, launcher: FakeLauncher, tmp_path: Path) -> Dispatcher:
    return Dispatcher(database, launcher, tmp_path / "runs", max_running=1)


@pytest.fixture
def say(tmp_path: Path) -> Callable[..., None]:
    """Lets a search's process say an event."""

    def say(search_id: str, event: str, **content: Any) -> None:
        line = {"event": event, "time_ms": time.time_ns() // 1_000_000, **content}
        with (tmp_path / "runs" / search_id / EVENTS_FILE).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    return say


def add(searches: Searches, *names: str) -> None:
    for name in names:
        key = IdempotencyKey("", "", "")
        settings = {"name": name, "model": "m"}
        searches.add(name, settings, key=key, is_taken=lambda _: False, frame={})


def begin(say: Callable[..., None], search_id: str, **further: object) -> None:
    content = {"pid": 1, "lines": ["base"], "trials": 2, "base": BASE, "limits": {"flops": 1500}}
    say(search_id, "launched", **content, **further)


def epoch(say: Callable[..., None], search_id: str, step: int) -> None:
    record = {"stage": "training", "step": step, "num_steps": 9, "validation_score": 0.5}
    say(search_id, "epochs", key="t", records=[record])


def finish(say: Callable[..., None], folder: Path, search_id: str) -> None:
    """As a search ends: results, then the last event."""
    first = outcome("a", flops=1000, validation_score=0.7).to_mapping()
    second = outcome("b", flops=1200, validation_score=0.6).to_mapping()
    results = {"everything": [first, second], "front": [first]}
    (folder / search_id / "results.json").write_text(json.dumps(results))
    say(search_id, "concluded")


def test_at_most_so_many_run_in_the_order_of_the_queue(
    database: Database, launcher: FakeLauncher, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    searches = Searches(database)
    add(searches, "a", "b")
    dispatcher.step()
    dispatcher.step()
    assert launcher.launched == [("a", 1)]
    assert json.loads((tmp_path / "runs" / "a" / "search.json").read_text())["model"] == "m"
    begin(say, "a")
    finish(say, tmp_path / "runs", "a")
    launcher.gone["a/1"] = ProcessExit("its process ended with status 0")
    dispatcher.step()
    assert launcher.launched == [("a", 1), ("b", 1)]
    assert [searches.get(name).state for name in ("a", "b")] == ["finished", "running"]
    kept = Architectures(database).within("a", bounds={}, on_front=False)
    assert [(row.key, row.on_front) for row in kept] == [("a", True), ("b", False)]


def test_progress_and_the_front_are_kept_while_it_runs(
    searches: Searches, dispatcher: Dispatcher, say: Any, architectures: Architectures
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a", reference={"score": 0.2, "flops": 4000.0, "least_flops": 250.0})
    say("a", "started", key="t", job={"proposal": {}})
    epoch(say, "a", 3)
    first = outcome("x", flops=1000, validation_score=0.7).to_mapping()
    worse = outcome("y", flops=1200, validation_score=0.6).to_mapping()
    base = base_outcome(flops=BASE["flops"], validation_score=0.99).to_mapping()
    say("a", "finished", key="base", outcomes=[base])
    say("a", "finished", key="t", outcomes=[first, worse])
    dispatcher.step()
    row = searches.get("a")
    assert (row.progress["best"]["key"], row.progress["base"]["key"]) == ("x", "base")
    assert row.progress["trials"]["finished"] == 1
    assert row.progress["hypervolume"] == pytest.approx(0.5 * 0.5 / 0.8)
    assert row.frame["base"] == BASE
    on_front = architectures.within("a", bounds={}, on_front=True)
    assert [found.key for found in on_front] == ["x"]


def test_of_errors_the_least_are_on_the_front(
    searches: Searches, dispatcher: Dispatcher, say: Any, architectures: Architectures
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a", score=ABSOLUTE_ERROR.to_mapping())
    say("a", "started", key="t", job={"proposal": {}})
    least = outcome("x", flops=1000, validation_score=0.25).to_mapping()
    worse = outcome("y", flops=1200, validation_score=0.75).to_mapping()
    say("a", "finished", key="t", outcomes=[worse, least])
    dispatcher.step()
    row = searches.get("a")
    assert row.progress["best"]["key"] == "x"
    assert row.progress["hypervolume"] is None
    assert SearchSummary.of(row)["score"] == ABSOLUTE_ERROR.to_mapping()
    on_front = architectures.within("a", bounds={}, on_front=True)
    assert [found.key for found in on_front] == ["x"]


def test_a_process_that_died_is_started_again_and_that_counts_only_without_progress(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, say: Any
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    for attempt in range(1, MAX_LOSSES + 3):  # more often than it may without progress
        epoch(say, "a", attempt)
        launcher.gone[f"a/{attempt}"] = ProcessExit("its process was ended by SIGKILL")
        dispatcher.step()
    assert searches.get("a").state == "running"
    last = MAX_LOSSES + 3
    for attempt in range(last, last + MAX_LOSSES):
        launcher.gone[f"a/{attempt}"] = ProcessExit("its process was ended by SIGKILL")
        dispatcher.step()
    row = searches.get("a")
    assert row.state == "failed"
    assert row.reason == (
        f"its process was ended by SIGKILL, {MAX_LOSSES + 1} times without getting any further"
    )
    assert len(launcher.launched) == row.launches


@pytest.mark.parametrize("how", ["event", "refusal"])
def test_what_failed_by_itself_is_not_tried_again(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, say: Any, how: str
) -> None:
    add(searches, "a")
    dispatcher.step()
    if how == "event":
        begin(say, "a")
        say("a", "failed", reason="all 2 trials failed")
        launcher.gone["a/1"] = ProcessExit(
            "its process ended with status 2", "ignored beside the event"
        )
    else:
        launcher.gone["a/1"] = ProcessExit("its process ended with status 2", "all 2 trials failed")
    dispatcher.step()
    row = searches.get("a")
    assert (row.state, row.reason, row.handle) == ("failed", "all 2 trials failed", "")
    assert len(launcher.launched) == 1


def test_stopping_asks_once_and_ends_as_stopped(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    say: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    searches.stop("a")
    dispatcher.step()
    dispatcher.step()
    assert launcher.interrupted == ["a/1"]
    assert launcher.killed == []
    monkeypatch.setattr("search.service.queue.supervisor._PATIENCE_SECONDS", -1.0)
    dispatcher.step()
    assert launcher.killed == ["a/1"]
    launcher.gone["a/1"] = ProcessExit("its process was ended by SIGKILL")
    dispatcher.step()
    assert searches.get("a").state == "stopped"


@pytest.fixture(params=[-400, 400])
def set_clock(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Sets the clock on the wall by so many days."""

    def set_clock() -> None:
        seconds = request.param * 24 * 3600
        now, now_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + seconds * 10**9)

    return set_clock


def test_a_clock_that_is_set_makes_nobody_hurry_or_wait(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    clock: Callable[[float], None],
    set_clock: Callable[[], None],
) -> None:
    """As when a machine learns the time of day after a service has begun."""
    launcher.gone["a/1"] = AWAY
    add(searches, "a")
    dispatcher.step()
    dispatcher.step()  # postponed, for two seconds
    set_clock()
    dispatcher.step()
    assert launcher.launched == [("a", 1)]
    clock(3)
    dispatcher.step()
    assert launcher.launched == [("a", 1), ("a", 2)]
    searches.stop("a")
    dispatcher.step()
    set_clock()
    dispatcher.step()
    assert (launcher.interrupted, launcher.killed) == (["a/2"], [])


def test_one_that_finished_before_it_could_be_stopped_is_finished(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    searches.stop("a")
    finish(say, tmp_path / "runs", "a")
    launcher.gone["a/1"] = ProcessExit("its process ended with status 0")
    dispatcher.step()
    assert searches.get("a").state == "finished"


def test_a_launcher_that_cannot_be_reached_is_waited_for(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher
) -> None:
    add(searches, "a", "b")
    launcher.error = ServiceError("the cluster does not answer")
    dispatcher.step()
    dispatcher.step()
    assert searches.get("a").state == "running"
    assert searches.get("b").state == "queued"
    launcher.error = None
    dispatcher.step()
    assert [name for name, _ in launcher.launched] == ["a"]
    launcher.error = ServiceError("the cluster does not answer")
    dispatcher.step()  # not known to be gone: it is not started again
    launcher.error = None
    dispatcher.step()
    assert [name for name, _ in launcher.launched] == ["a"]


@pytest.mark.parametrize("damage", [b"{\n", b"\0\n", b'{"event": "epochs", "time_ms": 1}\n'])
def test_a_damaged_line_of_events_is_nobodys_end(
    searches: Searches, dispatcher: Dispatcher, tmp_path: Path, say: Any, damage: bytes
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    with (tmp_path / "runs" / "a" / EVENTS_FILE).open("ab") as stream:
        stream.write(damage)
    epoch(say, "a", 4)
    dispatcher.step()
    assert searches.get("a").progress["epochs"] == 4


def test_events_that_were_replaced_are_read_anew(
    searches: Searches, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    epoch(say, "a", 4)
    dispatcher.step()
    (tmp_path / "runs" / "a" / EVENTS_FILE).unlink()
    begin(say, "a")
    epoch(say, "a", 2)
    dispatcher.step()
    assert searches.get("a").progress["epochs"] == 2


def test_an_error_of_one_search_is_its_own_and_ends_it_when_it_stays(
    searches: Searches,
    launcher: FakeLauncher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
) -> None:
    dispatcher = Dispatcher(database, launcher, tmp_path / "runs", max_running=2)
    add(searches, "a", "b", "c")
    dispatcher.step()
    monkeypatch.setattr("search.service.queue.supervisor._MAX_ERRORS", 3)
    poll = launcher.poll

    def fail(handle: str) -> ProcessExit | None:
        if handle == "a/1":
            raise KeyError("nobody foresaw this")
        return poll(handle)

    monkeypatch.setattr(launcher, "poll", fail)
    launcher.gone["b/1"] = ProcessExit("its process ended with status 2", "no luck")
    dispatcher.step()
    assert searches.get("a").state == "running"
    assert (searches.get("b").state, searches.get("c").state) == ("failed", "running")
    for _ in range(3):
        dispatcher.step()
    row = searches.get("a")
    assert row.state == "failed"
    assert row.reason == "the service cannot follow it: KeyError: 'nobody foresaw this'"
    assert launcher.killed == ["a/1"]


def test_the_loop_survives_and_tells_when_it_does_not_get_on(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(dispatcher, "step", fail)
    dispatcher.start()
    deadline = time.monotonic() + 30
    while len(calls) < 3:
        assert time.monotonic() < deadline
        dispatcher.wake()
        time.sleep(0.01)
    assert dispatcher.is_alive
    dispatcher.stuck_after_seconds = 0.0
    assert not dispatcher.is_alive
    dispatcher.close(0)


def test_what_cannot_be_done_for_now_is_done_later(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    clock: Callable[[float], None],
) -> None:
    """As with MLflow away, or a full disk: longer than losses would be borne."""
    add(searches, "a")
    dispatcher.step()
    for attempt in range(1, MAX_LOSSES + 5):
        launcher.gone[f"a/{attempt}"] = AWAY
        dispatcher.step()
        row = searches.get("a")
        assert (row.state, row.reason) == ("running", "waits: MLflow is away")
        clock(60)
        dispatcher.step()
        assert launcher.launched[-1] == ("a", attempt + 1)
    launcher.gone[f"a/{MAX_LOSSES + 5}"] = AWAY
    num_launched = len(launcher.launched)
    for _ in range(3):
        dispatcher.step()
    assert len(launcher.launched) == num_launched  # not yet
    searches.stop("a")
    dispatcher.step()
    assert searches.get("a").state == "stopped"


def test_pauses_grow_until_the_search_gets_further(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    clock: Callable[[float], None],
    say: Any,
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")

    def pause_before(attempt: int) -> float:
        launcher.gone[f"a/{attempt - 1}"] = AWAY
        seconds = 0.0
        dispatcher.step()
        while len(launcher.launched) < attempt:
            clock(0.5)
            seconds += 0.5
            dispatcher.step()
        return seconds

    assert [pause_before(attempt) for attempt in (2, 3, 4)] == [2, 4, 8]
    epoch(say, "a", 1)
    assert [pause_before(attempt) for attempt in (5, 6)] == [2, 4]


def test_a_record_that_mlflow_lacks_a_part_of_is_completed(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    tmp_path: Path,
    say: Any,
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    finish(say, tmp_path / "runs", "a")
    spool = tmp_path / "runs" / "a" / SPOOL_FILE
    spool.write_text("{}")
    launcher.gone["a/1"] = ProcessExit("its process ended with status 0")
    dispatcher.step()
    assert searches.get("a").state == "running"
    deadline = time.monotonic() + 30
    while len(launcher.launched) == 1:  # after a pause
        assert time.monotonic() < deadline
        dispatcher.step()
    spool.unlink()
    launcher.gone["a/2"] = ProcessExit("its process ended with status 0")
    dispatcher.step()
    assert searches.get("a").state == "finished"


def test_a_record_that_cannot_be_completed_keeps_no_search_from_its_end(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    finish(say, tmp_path / "runs", "a")
    (tmp_path / "runs" / "a" / SPOOL_FILE).write_text("{}")
    launcher.gone["a/1"] = ProcessExit("its process ended with status 2", "its images are gone")
    dispatcher.step()
    assert searches.get("a").state == "finished"


def test_another_service_goes_on_with_what_runs(
    database: Database, launcher: FakeLauncher, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    searches = Searches(database)
    add(searches, "a", "b")
    dispatcher.step()
    begin(say, "a")
    epoch(say, "a", 1)
    again = Dispatcher(database, launcher, tmp_path / "runs", max_running=1)
    again.step()
    assert launcher.launched == [("a", 1)]
    assert searches.get("a").progress["epochs"] == 1
    finish(say, tmp_path / "runs", "a")
    launcher.gone["a/1"] = ProcessExit("its process ended while nobody looked")
    again.step()
    assert [searches.get(name).state for name in ("a", "b")] == ["finished", "running"]


def test_what_ends_with_the_service_is_begun_again_however_often(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    database: Database,
    tmp_path: Path,
) -> None:
    """As in a container that is restarted, while an epoch takes hours."""
    add(searches, "a")
    dispatcher.step()
    for attempt in range(1, MAX_LOSSES + 4):
        launcher.gone[f"a/{attempt}"] = ProcessExit("its process ended while nobody looked")
        Dispatcher(database, launcher, tmp_path / "runs", max_running=1).step()
        assert launcher.launched[-1] == ("a", attempt + 1)
    last = Dispatcher(database, launcher, tmp_path / "runs", max_running=1)
    last.step()
    for attempt in range(MAX_LOSSES + 4, 2 * MAX_LOSSES + 5):  # now it dies by itself
        launcher.gone[f"a/{attempt}"] = ProcessExit("its process was ended by SIGKILL")
        last.step()
    assert searches.get("a").state == "failed"


def test_a_launch_that_was_cut_off_is_made_up_for(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, queue: SearchQueue
) -> None:
    add(searches, "a")
    queue.take_next(1)  # and there the service was killed
    dispatcher.step()
    assert launcher.launched == [("a", 1)]


def test_damaged_results_fail_the_search_with_the_reason(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher, tmp_path: Path, say: Any
) -> None:
    add(searches, "a")
    dispatcher.step()
    begin(say, "a")
    finish(say, tmp_path / "runs", "a")
    (tmp_path / "runs" / "a" / "results.json").write_text("{")
    launcher.gone["a/1"] = ProcessExit("its process ended with status 0")
    dispatcher.step()
    assert searches.get("a").state == "failed"
    assert "its results cannot be read" in searches.get("a").reason


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_closing_interrupts_what_runs_and_leaves_it_running_in_the_books(
    searches: Searches, launcher: FakeLauncher, dispatcher: Dispatcher
) -> None:
    add(searches, "a")
    dispatcher.start()
    until(lambda: launcher.launched)
    launcher.gone["a/1"] = ProcessExit("its process ended with status 130")
    dispatcher.close(5)
    assert launcher.interrupted == ["a/1"]
    assert searches.get("a").state == "running"
    assert not dispatcher.is_alive


def test_closing_interrupts_what_runs_while_the_database_is_away(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would go on to its end."""
    add(searches, "a")
    dispatcher.step()
    launcher.gone["a/1"] = ProcessExit("its process ended with status 130")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "scalars", failing)
        dispatcher.close(5)
    assert launcher.interrupted == ["a/1"]


def failing(*_: object) -> None:
    raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def test_what_is_launched_while_the_queue_closes_is_interrupted_too(
    searches: Searches,
    launcher: FakeLauncher,
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a step that a busy database keeps for longer than it is waited for."""
    add(searches, "a")
    begins, goes_on = threading.Event(), threading.Event()
    launch, running = launcher.launch, dispatcher._queue.running

    def late(search_id: str, attempt: int) -> str:
        begins.set()
        goes_on.wait(10)
        return launch(search_id, attempt)

    def before_it_is_launched() -> list[SearchRow]:
        rows = running()
        goes_on.set()
        until(lambda: launcher.launched)
        return rows

    monkeypatch.setattr(launcher, "launch", late)
    launcher.gone["a/1"] = ProcessExit("its process ended with status 130")
    dispatcher.start()
    assert begins.wait(10)
    monkeypatch.setattr(dispatcher._queue, "running", before_it_is_launched)
    dispatcher.close(1)
    assert launcher.interrupted == ["a/1"]


def test_a_cluster_that_is_away_for_one_search_keeps_no_other_from_being_interrupted(
    searches: Searches, launcher: FakeLauncher, database: Database, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(database, launcher, tmp_path / "runs", max_running=3)
    add(searches, "a", "b", "c")
    dispatcher.step()
    interrupt = launcher.interrupt

    def partly(handle: str) -> None:
        interrupt(handle)
        if len(launcher.interrupted) == 2:
            raise ServiceError("no answer")

    launcher.interrupt = partly  # type: ignore[method-assign]
    for name in ("a", "b", "c"):
        launcher.gone[f"{name}/1"] = ProcessExit("its process ended with status 130")
    dispatcher.close(5)
    assert sorted(launcher.interrupted) == ["a/1", "b/1", "c/1"]
