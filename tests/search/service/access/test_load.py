"""What many clients, slow ones and large files cost a service."""

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from refusals import every_route
from samples import outcome
from serving import eventually
from starlette.requests import Request

from search.service.access import connection_limits as connections
from search.service.access import request_guard as guards
from search.service.access.connection_limits import HeaderTimeoutProtocol, max_connections
from search.service.api import event_blocks
from search.service.api.event_blocks import Block, EventBlocks
from search.service.database.tables import SearchRow
from search.service.problem_details import ProblemError
from search.service.runs_folder import RunsFolder
from search.service.server import _listening
from search.service.service_config import ServiceConfig
from search.storage.layout import EVENTS_FILE

# ---- connections


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Of a server that answers everything, does not wait long, and has 20 connections at most."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"here"})

    monkeypatch.setattr(connections, "_HEADER_SECONDS", 1.0)
    monkeypatch.setattr(HeaderTimeoutProtocol, "max_connections", 20)
    with ExitStack() as stack:
        listener = stack.enter_context(_listening(ServiceConfig(port=0)))
        config = uvicorn.Config(app, http=HeaderTimeoutProtocol, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started, 30, "the server starts")
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=30)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side gives it up within 30 s, whatever it sent before."""
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"here" not in answer:
        answer += connection.recv(1000)
    return answer


def test_answers_are_sent_at_once(address: tuple[str, int]) -> None:
    """Small ones too, on a connection that is kept: 40 ms later where TCP waits for more."""
    with closing(connected(address)) as connection:
        (mine,) = eventually(lambda: list(HeaderTimeoutProtocol._expecting), 30, "it is served")
        option = mine.transport.get_extra_info("socket").getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert b"here" in ask(connection)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_that_does_not_come_is_not_waited_for(
    address: tuple[str, int], sent: bytes, is_first: bool
) -> None:
    with closing(connected(address)) as connection:
        if not is_first:
            ask(connection)
        connection.sendall(sent)
        assert is_closed(connection)


def test_a_request_that_trickles_in_is_not_waited_for(address: tuple[str, int]) -> None:
    with closing(connected(address)) as connection:

        def trickle() -> bool:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                return True
            return False

        assert eventually(trickle, 30, "the connection is closed")


def test_half_sent_requests_keep_nobody_out(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(closing(connected(address)))
            connection.sendall(b"GET / HTTP/1.1\r\n")
        assert b"here" in ask(stack.enter_context(closing(connected(address))))


def test_connections_leave_files_for_other_things() -> None:
    assert 0 < max_connections() <= 1000


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BODY_SECONDS", 0.05)
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def read() -> None:
        bounded = guards._bounded(receive, Request({"type": "http", "method": "POST"}))
        await bounded()
        await bounded()

    with pytest.raises(ProblemError, match="does not come") as caught:
        asyncio.run(read())
    assert caught.value.status == 408


def test_whoever_has_sent_it_all_may_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BODY_SECONDS", 0.05)
    parts = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await asyncio.sleep(0.3)
        return {"type": "http.disconnect"}

    async def read() -> Any:
        bounded = guards._bounded(receive, Request({"type": "http", "method": "POST"}))
        await bounded()
        return await bounded()

    assert asyncio.run(read()) == {"type": "http.disconnect"}


# ---- streams


def events(number: int) -> bytes:
    record = {"stage": "training", "step": 1, "num_steps": 9, "validation_score": 0.5}
    line = {"event": "epochs", "time_ms": 1, "key": "t", "records": [record]}
    return (json.dumps(line) + "\n").encode() * number


def test_events_are_passed_on_in_blocks(tmp_path: Path) -> None:
    """So that neither their file nor its events are ever in memory as a whole."""
    file = tmp_path / "a-search" / EVENTS_FILE
    file.parent.mkdir()
    file.write_bytes(events(20_000))
    row = SearchRow(id="a-search", state="finished", created_ms=1)

    async def blocks_behind(offset: int) -> list[Block]:
        kept, blocks = EventBlocks(RunsFolder(tmp_path)), []
        while (block := await kept.behind(row, offset)) is not None:
            blocks.append(block)
            offset = block[1]
        return blocks

    blocks = asyncio.run(blocks_behind(0))
    assert len(blocks) > 5
    assert max(len(block) for block, _ in blocks) < 2 * event_blocks._BLOCK
    assert blocks[-1][1] == file.stat().st_size
    (_, end), *later = blocks
    assert asyncio.run(blocks_behind(end)) == later


def test_a_stream_of_events_is_buffered_nowhere(service: Any) -> None:
    answer = service.ask("GET", "/v1/searches/done/events")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert b"event: concluded\n" in answer.body


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_test_accuracy_is_hidden_until_the_search_is_over(service: Any, state: str) -> None:
    service.finish(state, ["a-1"])
    found = outcome("a-1", test_score=0.123456).to_mapping()
    event = {"event": "finished", "time_ms": 1, "key": "t", "outcomes": [found]}
    (service.runs / state / EVENTS_FILE).write_text(json.dumps(event) + "\n")
    content = {"widths": {}, "provenance": {"test_score": 0.123456, "seed": 0}}
    home = service.runs / state / "architectures" / "a-1"
    (home / "architecture.json").write_text(json.dumps(content))
    service.put(state, state=state)
    for place in (
        *(f"searches/{state}/events", f"searches/{state}/architectures"),
        *(f"architectures/{state}:a-1", f"architectures/{state}:a-1/folder"),
    ):
        answer = service.ask("GET", f"/v1/{place}")
        assert answer.status == 200
        told = b"0.123456" in answer.body
        is_final = state == "finished" and not place.endswith("architectures")
        assert told == is_final, place


# ---- answers without a body


def test_head_is_answered_as_get_without_the_body(service: Any) -> None:
    for _, target in every_route(service, "GET"):
        got, asked = service.ask("GET", target), service.ask("HEAD", target)
        assert (asked.status, asked.body) == (got.status, b""), target
        unsteady = {"date", "content-length"}
        assert asked.headers.keys() - unsteady == got.headers.keys() - unsteady, target


@pytest.mark.parametrize(
    "target",
    [
        "/v1/searches",
        "/v1/searches/done/front",
        "/assets/style.css",
        "/v1/architectures/done:a-1/weights",
        "/v1/searches/done/report",
    ],
)
def test_what_a_client_has_already_is_not_sent_again(service: Any, target: str) -> None:
    first = service.ask("GET", target)
    tag = first.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = service.ask("GET", target, headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    other = service.ask("GET", target, headers={"If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, first.body)


def test_the_page_comes_compressed(service: Any) -> None:
    plain = service.ask("GET", "/assets/plotly.min.js")
    small = service.ask("GET", "/assets/plotly.min.js", headers={"Accept-Encoding": "gzip, br"})
    assert small.headers["content-encoding"] == "gzip"
    assert len(small.body) < len(plain.body) / 2
    assert gzip.decompress(small.body) == plain.body
    assert small.headers["etag"] != plain.headers["etag"]


def test_made_up_methods_are_counted_as_one(service: Any) -> None:
    for number in range(20):
        service.ask(f"MADEUP{number}", "/v1/searches")
    metrics = service.ask("GET", "/metrics").body.decode()
    assert "MADEUP" not in metrics
    assert 'method="other"' in metrics
