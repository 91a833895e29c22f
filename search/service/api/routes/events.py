"""/v1/searches/{id}/events: what happens in a search, while it happens."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from mlflow_server.append_log import open_file
from search.service.access.tokens import Caller
from search.service.api.components import Components
from search.service.api.dependencies import InComponents, Reader, SearchId
from search.service.database.tables import FINAL_STATES, SearchRow
from search.service.problem_details import ProblemError, documented
from search.service.schemas import SearchSummary
from search.storage.layout import EVENTS_FILE
from search.tracking.search_state import EventFile

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_POLL_SECONDS = 0.5
_KEEPALIVE_POLLS = 30
_MAX_STREAMS, _MAX_PER_CALLER = 256, 64
_BLOCK = 2**18
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@router.get(
    "/searches/{search_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"},
        **documented(404),
    },
)
async def events(
    request: Request,
    search_id: SearchId,
    components: InComponents,
    caller: Reader,
    last: Annotated[
        str, Header(alias="Last-Event-ID", pattern=r"^\d{0,15}$", description="goes on behind it")
    ] = "",
) -> EventSourceResponse:
    """Everything that happens, from the beginning on; `state` tells that of the whole search.

    Ends when the search is over, or removed.
    """
    reader = caller.name or (request.client.host if request.client else "")
    row = await run_in_threadpool(components.searches.get, search_id)
    if components.streams.total() >= _MAX_STREAMS or components.streams[reader] >= _MAX_PER_CALLER:
        raise ProblemError(429, "too many event streams are open: close one of them")
    return EventSourceResponse(
        _authorised_changes(components, caller, row, int(last or 0), reader), headers=_HEADERS
    )


async def _authorised_changes(
    components: Components, caller: Caller, row: SearchRow, offset: int, reader: str
) -> AsyncIterator[bytes]:
    """`_changes` until the search is over, or the token that opened the stream is invalid."""
    components.streams[reader] += 1
    try:
        async for part in _changes(components, row, offset):
            if components.tokens is not None and not components.tokens.is_still_valid(caller):
                return
            if part:
                yield part
    finally:
        components.streams -= Counter({reader: 1})


async def _changes(components: Components, row: SearchRow, offset: int) -> AsyncIterator[bytes]:
    """What has happened, or b"" at every poll without news.

    Threads and the database are used only when something has changed: streams are many.
    """
    file, size, num_polls = components.runs.path / row.id / EVENTS_FILE, -1, 0
    version, sent = components.database.version(row.id), (row.state, row.wish)
    yield _state(row)
    while not components.is_closing.is_set():
        was_over = row.state in FINAL_STATES
        if (new_size := _size(file)) != size:
            size = new_size
            async for block, end in _blocks(components, row, offset):
                offset = end
                yield block
        if was_over:
            return
        await asyncio.sleep(_POLL_SECONDS)
        num_polls += 1
        if components.database.version(row.id) != version:
            try:
                row = await run_in_threadpool(components.searches.get, row.id)
            except ProblemError:  # it was removed
                return
            except SQLAlchemyError:  # it is asked for again
                continue
            version = components.database.version(row.id)
        if (row.state, row.wish) != sent:
            sent = (row.state, row.wish)
            yield _state(row)
        else:
            yield KEEPALIVE_COMMENT if num_polls % _KEEPALIVE_POLLS == 0 else b""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


async def _blocks(
    components: Components, row: SearchRow, offset: int
) -> AsyncIterator[tuple[bytes, int]]:
    """The events behind the offset, many at a time; all of them if no line ends there."""
    try:
        path = components.runs.file(row.id, EVENTS_FILE)
        file = EventFile(path, offset if _ends_line(path, offset) else 0)
    except (ProblemError, OSError):  # it has not begun, or cannot be read
        return
    blocks = _block_by_block(file, is_final=row.state == "finished")
    while (block := await run_in_threadpool(next, blocks, None)) is not None:
        yield block


def _block_by_block(file: EventFile, *, is_final: bool) -> Iterator[tuple[bytes, int]]:
    """Some of the events as they go over the wire, and where reading goes on."""
    block = bytearray()
    for event, line in file.lines():
        is_hidden = event == "finished" and not is_final
        data = _without_test_score(line) if is_hidden else line.rstrip()
        block += b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), data, file.offset)
        if len(block) > _BLOCK:
            yield bytes(block), file.offset
            block.clear()
    if block:
        yield bytes(block), file.offset


def _without_test_score(line: bytes) -> bytes:
    """It stays hidden until the search is over."""
    event = json.loads(line)
    for outcome in event["outcomes"]:
        outcome["test_score"] = None
    return json.dumps(event, separators=(",", ":")).encode()


def _ends_line(file: Path, offset: int) -> bool:
    with open_file(file) as stream:
        if not 0 < offset <= os.fstat(stream.fileno()).st_size:
            return offset == 0
        stream.seek(offset - 1)
        return stream.read(1) == b"\n"


def _state(row: SearchRow) -> bytes:
    return format_sse_event(data_str=json.dumps(SearchSummary.of(row)), event="state")
