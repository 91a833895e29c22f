"""What a service needs goes away and comes back: it says so, and goes on by itself."""

import errno
import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from refusals import check_refused, every_route
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from search.service import throttled_log
from search.service.api.routes import server
from search.service.throttled_log import ThrottledLog
from search.storage.folder_lock import FolderLock

NEEDS_NO_DATABASE = {"/", "/assets/style.css", "/openapi.json", "/livez", "/healthz", "/readyz"}
NEEDS_NO_DATABASE |= {"/v1/models", "/v1/datasets", "/v1/criteria", "/v1/preflight"}


@contextmanager
def database_fails(why: str) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception(why))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("begin", "execute", "get", "scalar", "scalars"):
            patch.setattr(Session, name, fail)
        yield


@pytest.mark.parametrize(
    ("why", "status"), [("connection refused", 503), ("database or disk is full", 507)]
)
def test_no_route_fails_otherwise_while_the_database_does(
    service: Any, why: str, status: int
) -> None:
    with database_fails(why):
        for method, target in every_route(service):
            if target in NEEDS_NO_DATABASE or method == "POST":
                continue
            body = b'{"priority": 1}' if method == "PUT" else b""
            answer = service.ask(method, target, body)
            check_refused(answer, status)
            assert int(answer.headers["retry-after"]) > 0
        assert service.ask("GET", "/healthz").status == 200
        ready = service.ask("GET", "/readyz")
        assert ready.status == 503
        assert ready.json["parts"]["database"] is False
    assert service.ask("GET", "/v1/searches").status == 200
    assert service.ask("GET", "/readyz").json["parts"]["database"] is True


@pytest.mark.parametrize("part", ["database", "folder"])
def test_what_hangs_is_not_ready(service: Any, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """As a database does whose machine is gone, or a folder of another machine."""
    goes_on = threading.Event()
    monkeypatch.setattr(server, "_CHECK_SECONDS", 0.2)
    of_part = {
        "database": (service.components.queue, "counts"),
        "folder": (service.components.runs, "is_writable"),
    }
    monkeypatch.setattr(*of_part[part], lambda: goes_on.wait(60))
    try:
        ready = service.ask("GET", "/readyz")
    finally:
        goes_on.set()
    assert (ready.status, ready.json["parts"][part]) == (503, False)


def test_a_queue_that_does_not_get_on_is_not_ready(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.ask("GET", "/readyz").json["parts"]["queue"] is True
    monkeypatch.setattr(service.components.dispatcher, "stuck_after_seconds", -1.0)
    ready = service.ask("GET", "/readyz")
    assert (ready.status, ready.json["parts"]["queue"]) == (503, False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_not_ready(
    service: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, "no")

    assert service.ask("GET", "/readyz").json["parts"]["folder"] is True
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    ready = service.ask("GET", "/readyz")
    assert (ready.status, ready.json["parts"]["folder"]) == (503, False)


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EROFS, 503)])
def test_what_cannot_be_written_is_told_as_such(
    service: Any, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(service.components.runs, "remove", fail)
    monkeypatch.setattr(service.components.searches, "remove", lambda _: None)
    check_refused(service.ask("DELETE", "/v1/searches/done"), status)


def test_a_search_that_the_command_line_works_on_is_not_deleted(service: Any) -> None:
    """The lock on its folder, which that process holds, is what tells."""
    folder = service.components.runs.path / "done"
    there = sorted(folder.rglob("*"))
    with FolderLock(folder, "search") as lock:
        lock.acquire()
        answer = service.ask("DELETE", "/v1/searches/done")
    check_refused(answer, 409)
    assert "a process works on done: stop it first" in answer.json["detail"]
    assert sorted(folder.rglob("*")) == sorted({*there, folder / ".lock"})
    assert service.ask("GET", "/v1/searches/done").status == 200


def test_what_lasts_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(throttled_log.time, "monotonic", lambda: now)
    throttled = ThrottledLog(logging.getLogger("test"))
    for second in range(130):
        now = 1000.0 + second
        throttled.warn("the disk", "is full")
        throttled.warn("the database", "is away")
    assert caplog.messages.count("the disk: is full") == 3
    assert caplog.messages.count("the database: is away") == 3
    throttled.warn("the disk", "is broken")
    throttled.clear("the disk")
    throttled.warn("the disk", "is broken")
    assert caplog.messages.count("the disk: is broken") == 2
