"""Other programs are told when a search is over: each end, at least once, over restarts."""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pruning.errors import ConfigError
from search.service.database.connection import open_database
from search.service.database.idempotency import IdempotencyKey
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.transactions import Database
from search.service.queue import webhooks as module
from search.service.queue.webhooks import Webhooks
from search.service.service_config import ServiceConfig

ONE, TWO = "http://one.example/hook?key=secret", "https://two.example/hook"
SETTINGS = {"model": "digits-vgg", "budget": ["flops=10%"]}


class Receiver:
    """Keeps what it was told, and answers with the next of its statuses, or 200."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.requests: list[httpx.Request] = []
        self.answers: dict[str, list[int | Exception]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        waiting = self.answers.get(request.url.host, [])
        answer = waiting.pop(0) if waiting else 200
        if isinstance(answer, Exception):
            raise answer
        if answer == 200:
            content = json.loads(request.content)
            self.told.append((request.url.host, content["search"]["id"], content["event"]))
        return httpx.Response(answer)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    engine = open_database(f"sqlite:///{tmp_path / 'service.db'}")
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def clock(clock: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Also for the day after which it gives up."""
    real_ms = module.now_ms
    monkeypatch.setattr(module, "now_ms", lambda: real_ms() + int(clock.passed * 1000))
    return clock


def hooks(database: Database, receiver: Receiver, *urls: str, secret: str = "") -> Webhooks:
    transport = httpx.MockTransport(receiver)
    return Webhooks(database, urls or (ONE,), secret, transport=transport)


def end(database: Database, name: str, state: Any = "finished", reason: str = "") -> None:
    queue = SearchQueue(database)
    Searches(database).add(
        name, SETTINGS, key=IdempotencyKey("me", "", ""), is_taken=lambda _: False, frame={}
    )
    queue.take_next(1)
    queue.end(name, state, reason)


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_the_end_of_a_search_is_told_once(
    database: Database, receiver: Receiver, state: str
) -> None:
    webhooks = hooks(database, receiver, ONE, TWO)
    webhooks.step()
    assert receiver.told == []
    end(database, "a", state, "why")
    for _ in range(3):
        webhooks.step()
    assert receiver.told == [("one.example", "a", state), ("two.example", "a", state)]
    content = json.loads(receiver.requests[0].content)
    assert (content["search"]["reason"], content["search"]["owner"]) == ("why", "me")
    assert "settings" not in content["search"]
    assert receiver.requests[0].headers["content-type"] == "application/json"
    assert module.SIGNATURE_HEADER not in receiver.requests[0].headers


def test_one_that_waits_is_told_when_it_is_stopped_and_one_that_is_resumed_again(
    database: Database, receiver: Receiver
) -> None:
    webhooks = hooks(database, receiver)
    searches, queue = Searches(database), SearchQueue(database)
    searches.add(
        "a", SETTINGS, key=IdempotencyKey("me", "", ""), is_taken=lambda _: False, frame={}
    )
    webhooks.step()
    searches.stop("a")
    webhooks.step()
    searches.resume("a")
    webhooks.step()
    queue.take_next(1)
    queue.end("a", "failed", "no luck")
    webhooks.step()
    assert [event for _, _, event in receiver.told] == ["stopped", "failed"]


def test_what_is_told_is_signed(database: Database, receiver: Receiver) -> None:
    end(database, "a")
    hooks(database, receiver, secret="s3cret").step()
    (request,) = receiver.requests
    digest = hmac.new(b"s3cret", request.content, hashlib.sha256).hexdigest()
    assert request.headers[module.SIGNATURE_HEADER] == f"sha256={digest}"


def test_what_fails_is_tried_again_after_growing_pauses(
    database: Database,
    receiver: Receiver,
    clock: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those that know already are not told again, others are told meanwhile."""
    receiver.answers["one.example"] = [500, httpx.ConnectError("nobody"), 302]
    webhooks = hooks(database, receiver, ONE, TWO)
    end(database, "a")
    webhooks.step()
    webhooks.step()
    assert len(receiver.requests) == 2
    end(database, "b")
    receiver.answers["one.example"].insert(0, 200)
    webhooks.step()
    assert [search for _, search, _ in receiver.told] == ["a", "b", "b"]
    for pause in (2, 4, 8):
        clock(pause - 0.1)
        before = len(receiver.requests)
        webhooks.step()
        assert len(receiver.requests) == before
        clock(0.2)
        webhooks.step()
        assert len(receiver.requests) == before + 1
    assert receiver.told[-1] == ("one.example", "a", "finished")
    assert receiver.told.count(("two.example", "a", "finished")) == 1
    assert "one.example: is not told: it answers 500" in caplog.text
    assert "secret" not in caplog.text


def test_what_was_not_told_is_told_after_a_restart(database: Database, receiver: Receiver) -> None:
    receiver.answers["one.example"] = [503]
    end(database, "a")
    first = hooks(database, receiver)
    first.step()
    first.close()
    again = Database(database.engine)
    hooks(again, receiver).step()
    hooks(again, receiver).step()
    assert receiver.told == [("one.example", "a", "finished")]


def test_after_a_day_it_is_given_up(
    database: Database,
    receiver: Receiver,
    clock: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.answers["one.example"] = [500] * 10**4
    webhooks = hooks(database, receiver)
    end(database, "a")
    for _ in range(23 * 60):
        webhooks.step()
        clock(60)
    assert 90 < len(receiver.requests) < 120  # every quarter of an hour
    assert "given up" not in caplog.text
    clock(3600)
    before = len(receiver.requests)
    for _ in range(3):
        webhooks.step()
    assert len(receiver.requests) == before
    given_up = [r.message for r in caplog.records if "within a day" in r.message]
    assert given_up == ["webhooks were not told within a day of the end of a"]


def test_its_thread_outlives_errors(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INTERVAL_SECONDS", 0.01)
    told = threading.Event()
    unannounced, failures = SearchQueue.unannounced, iter([KeyError("x"), OSError("y")])

    def unsteady(queue: SearchQueue) -> Any:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return unannounced(queue)

    def answer(request: httpx.Request) -> httpx.Response:
        told.set()
        return receiver(request)

    monkeypatch.setattr(SearchQueue, "unannounced", unsteady)
    end(database, "a")
    webhooks = Webhooks(database, (ONE,), transport=httpx.MockTransport(answer))
    webhooks.start()
    try:
        assert told.wait(30)
    finally:
        webhooks.close()


@pytest.mark.parametrize(
    "url", ["", "one.example", "ftp://x", "http://", "http://me:pw@x/", "http://["]
)
def test_an_address_is_one_of_the_web(url: str) -> None:
    with pytest.raises(ConfigError, match="webhooks must be") as caught:
        ServiceConfig(webhooks=(url,))
    assert "pw" not in str(caught.value)
    if url:
        with pytest.raises(ConfigError, match="mlflow_public_url must be"):
            ServiceConfig(mlflow_public_url=url)
    assert ServiceConfig(webhooks=(ONE, TWO), mlflow_public_url="https://m.example/x")
