"""The service's database: the same on SQLite and on PostgreSQL."""

import json
import os
import secrets
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine

from pruning.errors import ServiceError
from search.service.database.architectures import Architectures
from search.service.database.connection import open_database
from search.service.database.idempotency import IdempotencyKey, search_begun_with
from search.service.database.lock import DatabaseLock
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.tables import ArchitectureRow, SearchRow, Table
from search.service.database.transactions import Database
from search.service.problem_details import ProblemError


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    cluster: Any = request.getfixturevalue("cluster")
    name = f"service_{secrets.token_hex(4)}"
    cluster.make_database(name)
    found: str = cluster.url(name=name)
    return found


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


def add(
    searches: Searches,
    name: str = "s",
    *,
    key: str = "",
    digest: str = "d",
    owner: str = "me",
    max_unfinished: int | None = None,
    is_taken: Callable[[str], bool] = lambda _: False,
) -> SearchRow:
    settings = {"name": name, "model": "digits-vgg", "budget": ["flops=10%"]}
    key = IdempotencyKey(owner, key, digest)
    return searches.add(
        name,
        settings,
        key=key,
        is_taken=is_taken,
        frame={"base": None},
        max_unfinished=max_unfinished,
    )


def architecture(search_id: str, key: str, flops: int, accuracy: float, **more: Any) -> Any:
    return ArchitectureRow(
        search_id=search_id,
        key=key,
        origin="uniform",
        flops=flops,
        params=flops // 10,
        validation_score=accuracy,
        outcome={"key": key},
        **more,
    )


def test_the_migrations_make_the_tables_that_the_code_reads(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_database_is_opened_again_with_what_it_holds(url: str, searches: Searches) -> None:
    add(searches, "kept")
    again = open_database(url)
    assert Searches(Database(again)).get("kept").settings["model"] == "digits-vgg"
    again.dispose()


def test_half_a_schema_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the machine goes down")

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", fail)
        with pytest.raises(RuntimeError, match="goes down"):
            open_database(url)
    engine = open_database(url)
    add(Searches(Database(engine)), "s")
    engine.dispose()


def test_several_open_a_new_database_at_once(url: str) -> None:
    begin = threading.Barrier(4)

    def opened() -> set[str]:
        begin.wait()
        engine = open_database(url)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
        return tables

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(opened) for _ in range(4)]
    assert {frozenset(each.result()) for each in found} == {
        frozenset({*Table.metadata.tables, "alembic_version"})
    }


def test_a_database_of_an_older_version_is_brought_up_to_date(
    url: str, searches: Searches, architectures: Architectures, engine: Engine
) -> None:
    add(searches, "kept")
    architectures.put("kept", [architecture("kept", "a", 10, 0.5)])
    older = {"validation_accuracy": 0.5, "test_accuracy": 0.25, "flops": 10}
    with engine.begin() as connection:
        for statement in (
            "ALTER TABLE searches DROP COLUMN kind",
            "ALTER TABLE searches DROP COLUMN priority",
            "ALTER TABLE searches DROP COLUMN told_ms",
            "ALTER TABLE architectures RENAME COLUMN validation_score TO validation_accuracy",
            "UPDATE alembic_version SET version_num = '2'",
            f"UPDATE architectures SET outcome = '{json.dumps(older)}'",
        ):
            connection.execute(sqlalchemy.text(statement))
    again = open_database(url)
    network = Architectures(Database(again)).get("kept", "a")
    assert network.validation_score == 0.5
    assert network.outcome == {"validation_score": 0.5, "test_score": 0.25, "flops": 10}
    row = Searches(Database(again)).get("kept")
    assert (row.kind, row.priority, row.told_ms) == ("search", 0, None)
    again.dispose()


def test_a_newer_database_is_refused_in_one_line(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '99'"))
    with pytest.raises(ServiceError, match="has schema 99, this Espalier knows up to") as caught:
        open_database(url)
    assert "\n" not in str(caught.value)


def test_a_database_has_one_service(url: str, engine: Engine) -> None:
    first = DatabaseLock(engine)
    first.ensure()
    other = open_database(url)
    with pytest.raises(ServiceError, match="another service uses the database") as caught:
        DatabaseLock(other)
    assert "\n" not in str(caught.value)
    first.close()
    second = DatabaseLock(other)
    second.ensure()
    second.close()
    other.dispose()


def test_a_lock_that_is_let_go_can_be_taken_at_once(url: str, engine: Engine) -> None:
    other = open_database(url)
    for _ in range(20):
        for mine, theirs in ((engine, other), (other, engine)):
            lock = DatabaseLock(mine)
            with pytest.raises(ServiceError, match="another service uses the database"):
                DatabaseLock(theirs)
            lock.close()
    other.dispose()


def test_a_lock_that_was_lost_with_its_connection_is_taken_again_or_missed(
    url: str, engine: Engine
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("a lock on a file is not lost")
    ends = sqlalchemy.text(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    other = open_database(url)
    first = DatabaseLock(engine)
    with other.connect() as connection:
        connection.execute(ends)
    first.ensure()
    with other.connect() as connection:
        connection.execute(ends)
    second = DatabaseLock(other)
    with pytest.raises(ServiceError, match="another service uses the database"):
        first.ensure()
    second.close()
    first.ensure()
    first.close()
    other.dispose()


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("nonsense", "a database is sqlite:///FILE or postgresql://"),
        ("mysql://me:secret@host/x", "neither SQLite nor PostgreSQL"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("postgresql://me:secret@127.0.0.1:1/x", "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_one_line_without_password(
    url: str, line: str
) -> None:
    with pytest.raises(ServiceError, match=line) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="options of Linux are read")
def test_a_server_whose_machine_is_gone_is_given_up_within_20_seconds(cluster: Any) -> None:
    """By what the system is told of the connection: nobody answers, not even with a refusal."""
    name = f"service_{secrets.token_hex(4)}"
    cluster.make_database(name)
    engine = open_database(cluster.url(name=name))
    with engine.connect() as connection:
        descriptor = connection.connection.driver_connection.fileno()  # type: ignore[union-attr]
        with socket.socket(fileno=os.dup(descriptor)) as stream:

            def option(number: int) -> int:
                return stream.getsockopt(socket.IPPROTO_TCP, number)

            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            asked = option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
            assert option(socket.TCP_KEEPIDLE) + asked <= 20
            assert 0 < option(socket.TCP_USER_TIMEOUT) <= 20_000
    engine.dispose()


def test_a_name_in_use_gets_a_number(searches: Searches) -> None:
    ids = [add(searches, "s").id for _ in range(3)]
    assert ids == ["s", "s-2", "s-3"]
    assert searches.get("s-2").settings["name"] == "s-2"
    assert add(searches, "folder", is_taken=lambda name: name == "folder").id == "folder-2"


def test_a_key_belongs_to_one_search_and_its_settings(
    searches: Searches, database: Database
) -> None:
    row = add(searches, key="k", digest="first")
    same = search_begun_with(database, IdempotencyKey("me", "k", "first"))
    assert same is not None
    assert same.id == row.id
    assert search_begun_with(database, IdempotencyKey("you", "k", "first")) is None
    with pytest.raises(ProblemError, match="other settings") as caught:
        search_begun_with(database, IdempotencyKey("me", "k", "second"))
    assert caught.value.status == 422


def test_a_key_is_forgotten_with_its_search(
    searches: Searches, architectures: Architectures, database: Database
) -> None:
    row = add(searches, key="k")
    architectures.put(row.id, [architecture(row.id, "a", 10, 0.5)])
    searches.remove(row.id)
    assert search_begun_with(database, IdempotencyKey("me", "k", "d")) is None
    with pytest.raises(ProblemError, match="there is no search"):
        searches.get(row.id)
    with pytest.raises(ProblemError, match="there is no architecture"):
        architectures.get(row.id, "a")


def test_the_queue_keeps_its_order(searches: Searches, queue: SearchQueue) -> None:
    for name in ("a", "b", "c", "d"):
        add(searches, name)
    assert [row.id for row in queue.take_next(2)] == ["a", "b"]
    queue.end("a", "failed", "why")
    searches.resume("a")  # behind those that waited before
    assert [row.id for row in queue.take_next(5)] == ["c", "d", "a"]
    assert queue.take_next(1) == []


def test_the_queue_is_fair(searches: Searches, queue: SearchQueue) -> None:
    """Whoever has launched many before does not keep the others waiting."""
    for number in range(4):
        add(searches, f"a{number}", owner="anna")
    add(searches, "b0", owner="ben")
    add(searches, "b1", owner="ben")
    add(searches, "c0", owner="cleo")
    assert [row.id for row in queue.take_next(4)] == ["a0", "b0", "c0", "a1"]
    queue.end("a0", "finished")
    queue.end("a1", "finished")
    assert [row.id for row in queue.take_next(3)] == ["a2", "a3", "b1"]


def test_the_highest_priority_comes_first(
    searches: Searches, queue: SearchQueue, database: Database
) -> None:
    for name in ("a", "b", "c"):
        add(searches, name)
    assert searches.get("a").priority == 0
    before = database.version("c")
    assert searches.set_priority("c", 5).priority == 5
    assert database.version("c") != before
    searches.set_priority("a", -1)
    assert [row.id for row in queue.take_next(3)] == ["c", "b", "a"]
    with pytest.raises(ProblemError, match="there is no search"):
        searches.set_priority("none", 1)


def test_an_owner_has_so_many_searches_at_a_time(searches: Searches, queue: SearchQueue) -> None:
    """Those that wait and run count, those of others and those that are over do not."""
    add(searches, "other", owner="you", max_unfinished=2)
    for name in ("a", "b"):
        add(searches, name, max_unfinished=2)
    queue.take_next(1)
    with pytest.raises(ProblemError, match="2 searches of me wait or run, and 2 may") as caught:
        add(searches, "c", max_unfinished=2)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) > 0
    searches.stop("b")
    add(searches, "c", max_unfinished=2)
    with pytest.raises(ProblemError, match="2 may at a time"):
        searches.resume("b", 2)
    assert searches.get("b").state == "stopped"
    assert searches.resume("b", 3).state == "queued"


def test_what_can_be_done_depends_on_the_state(searches: Searches, queue: SearchQueue) -> None:
    add(searches, "s")
    with pytest.raises(ProblemError, match="nothing to resume"):
        searches.resume("s")
    queue.take_next(1)
    with pytest.raises(ProblemError, match="stop it first"):
        searches.remove("s")
    assert searches.stop("s").wish == "stop"
    queue.end("s", "stopped")
    with pytest.raises(ProblemError, match="s is stopped already"):
        searches.stop("s")
    assert searches.resume("s").state == "queued"
    assert searches.stop("s").state == "stopped"  # at once: it had not begun
    searches.remove("s")
    assert queue.counts() == dict.fromkeys(queue.counts(), 0)


def test_of_those_who_change_a_state_at_once_one_does(
    searches: Searches, queue: SearchQueue
) -> None:
    """Stop, take, resume and delete, over and over: every state follows from the one before."""
    add(searches, "s")
    told: list[str] = []
    doing = threading.Lock()

    def repeat(name: str, do: Callable[[], object]) -> None:
        for _ in range(40):
            try:
                changed = do()
            except ProblemError as error:
                assert error.status in (404, 409)  # noqa: PT017 - every other error is raised
            else:
                if changed != []:
                    with doing:
                        told.append(name)

    work: dict[str, Callable[[], object]] = {
        "taken": lambda: queue.take_next(1),
        "ended": lambda: queue.end("s", "stopped"),
        "stopped": lambda: searches.stop("s"),
        "resumed": lambda: searches.resume("s"),
    }
    threads = [threading.Thread(target=repeat, args=item) for item in work.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = Counter(told)
    # a search is taken only from the queue, into which it comes once and by being resumed
    assert counted["taken"] <= counted["resumed"] + 1
    row = searches.get("s")
    assert row.state in ("queued", "running", "stopped")
    assert (row.ended_ms is None) == (row.state != "stopped")


def test_what_is_over_is_not_changed_by_those_who_followed_it(
    searches: Searches, queue: SearchQueue
) -> None:
    add(searches, "s")
    queue.take_next(1)
    queue.end("s", "finished")
    queue.update("s", handle="late", progress={"late": True})
    queue.end("s", "failed", "late")
    row = searches.get("s")
    assert (row.state, row.handle, row.progress, row.reason) == ("finished", "", {}, "")


def test_pages_are_newest_first_and_counted(searches: Searches, queue: SearchQueue) -> None:
    for number in range(7):
        add(searches, f"s{number}")
    queue.take_next(1)
    rows, total = searches.page(state=None, name=None, limit=3, offset=2)
    assert ([row.id for row in rows], total) == (["s4", "s3", "s2"], 7)
    rows, total = searches.page(state="running", name=None, limit=3, offset=0)
    assert ([row.id for row in rows], total) == (["s0"], 1)
    rows, total = searches.page(state=None, name="%", limit=3, offset=0)
    assert (rows, total) == ([], 0)  # no wildcard
    assert queue.counts()["queued"] == 6


def test_architectures_within_bounds(searches: Searches, architectures: Architectures) -> None:
    add(searches, "s")
    rows = [
        architecture("s", "small", 10, 0.5, on_front=True),
        architecture("s", "bad", 20, 0.4),
        architecture("s", "large", 30, 0.9, on_front=True),
    ]
    architectures.put("s", rows)
    architectures.put("s", rows)  # again: nothing is there twice

    def keys(on_front: bool, **bounds: float) -> list[str]:
        found = architectures.within("s", bounds=bounds, on_front=on_front)
        return [row.key for row in found]

    assert keys(False) == ["small", "bad", "large"]
    assert keys(True) == ["small", "large"]
    assert keys(True, flops=29) == ["small"]
    assert keys(False, params=2) == ["small", "bad"]


def test_a_long_reason_is_cut(searches: Searches, queue: SearchQueue) -> None:
    add(searches, "s")
    queue.take_next(1)
    queue.end("s", "failed", "x" * 5000)
    assert len(searches.get("s").reason) == 2000
