"""/v1/searches/{id}/events: what happens in a search, while it happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from search.service import descriptions as d
from search.service.parts import InParts, Parts, Reader, SearchId
from search.service.problems import ProblemError, documented
from search.service.searches import OVER
from search.service.tables import SearchRow
from search.service.tokens import Caller
from search.standing import FEED_FILE, Event, read_events

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_POLL_SECONDS = 0.5
_ALIVE_EVERY = 30
_MOST_STREAMS = 256


@router.get(
    "/searches/{search_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"},
        **documented(404),
    },
)
async def events(
    search_id: SearchId,
    parts: InParts,
    caller: Reader,
    last: Annotated[
        str, Header(alias="Last-Event-ID", pattern=r"^\d{0,15}$", description="goes on behind it")
    ] = "",
) -> StreamingResponse:
    """Everything that happens, from the beginning on; `state` tells that of the whole search.

    Ends when the search is over, or removed.
    """
    row = await run_in_threadpool(parts.searches.get, search_id)
    if parts.num_streams >= _MOST_STREAMS:
        raise ProblemError(429, "too many event streams are open: close one of them")
    return StreamingResponse(
        _followed(parts, caller, row, int(last or 0)), media_type="text/event-stream"
    )


async def _followed(
    parts: Parts, caller: Caller, row: SearchRow, offset: int
) -> AsyncIterator[bytes]:
    """Until the search is over, or the token that opened it is."""
    parts.num_streams += 1
    try:
        async for part in _changes(parts, row, offset):
            if parts.tokens is not None and not parts.tokens.still_lets_in(caller):
                return
            if part:
                yield part
    finally:
        parts.num_streams -= 1


async def _changes(parts: Parts, row: SearchRow, offset: int) -> AsyncIterator[bytes]:
    """What has happened, and nothing at every look; threads and the database are used only when
    something has changed: streams are many.
    """
    file, size, beat = parts.runs / row.id / FEED_FILE, -1, 0
    version, told = parts.searches.version(row.id), (row.state, row.wish)
    yield _state(row)
    while not parts.is_closing.is_set():
        was_over = row.state in OVER
        if (now := _size(file)) != size:
            size = now
            for event, end in await run_in_threadpool(_read, parts, row.id, offset):
                offset = end
                text = json.dumps(event, separators=(",", ":"))
                yield format_sse_event(data_str=text, event=event["event"], id=str(offset))
        if was_over:
            return
        await asyncio.sleep(_POLL_SECONDS)
        beat += 1
        if parts.searches.version(row.id) != version:
            version = parts.searches.version(row.id)
            try:
                row = await run_in_threadpool(parts.searches.get, row.id)
            except ProblemError:  # it was removed
                return
        if (row.state, row.wish) != told:
            told = (row.state, row.wish)
            yield _state(row)
        else:
            yield KEEPALIVE_COMMENT if beat % _ALIVE_EVERY == 0 else b""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _read(parts: Parts, search_id: str, offset: int) -> list[tuple[Event, int]]:
    """The events behind the offset; all of them if no line ends there."""
    try:
        file = parts.file(search_id, FEED_FILE)
    except ProblemError:  # it has not begun
        return []
    return list(read_events(file, offset if _ends_line(file, offset) else 0))


def _ends_line(file: Path, offset: int) -> bool:
    if not 0 < offset <= file.stat().st_size:
        return offset == 0
    with file.open("rb") as stream:
        stream.seek(offset - 1)
        return stream.read(1) == b"\n"


def _state(row: SearchRow) -> bytes:
    return format_sse_event(data_str=json.dumps(d.SearchSummary.of(row)), event="state")
