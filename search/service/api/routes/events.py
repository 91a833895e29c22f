"""/v1/searches/{id}/events: what happens in a search, while it happens."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from search.service.access.tokens import Caller
from search.service.api.components import Components
from search.service.api.dependencies import InComponents, Reader, SearchId
from search.service.database.tables import FINAL_STATES, SearchRow
from search.service.problem_details import ProblemError, documented
from search.service.schemas import SearchSummary
from search.storage.layout import EVENTS_FILE

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_POLL_SECONDS = 0.5
_KEEPALIVE_POLLS = 30
_MAX_STREAMS, _MAX_PER_CALLER = 256, 64
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
    offset = await run_in_threadpool(components.event_blocks.first_offset, row.id, offset)
    version, sent = components.database.version(row.id), (row.state, row.wish)
    yield _state(row)
    while not components.is_closing.is_set():
        was_over = row.state in FINAL_STATES
        if (new_size := _size(file)) != size:
            size, offset = new_size, offset if offset <= new_size else 0
            while offset < size:
                block = await components.event_blocks.behind(row, offset)
                if block is None:  # half a line, so far
                    break
                events, offset = block
                yield events
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


def _state(row: SearchRow) -> bytes:
    return format_sse_event(data_str=json.dumps(SearchSummary.of(row)), event="state")
