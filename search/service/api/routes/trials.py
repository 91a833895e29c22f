"""/v1/searches/{id}/trials and /log: what its trials do, and what its processes print."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import PlainTextResponse, Response

from search.service import schemas as d
from search.service.api.components import InParts, PageLimit, PageOffset, Parts, Reader, SearchId
from search.service.api.trial_state import TrialRecord, trial_records
from search.service.database.searches import OVER
from search.service.problem_details import ProblemError, documented
from search.storage.layout import EVENTS_FILE, LOG_FILE
from search.tracking.process_log import read_log
from search.tracking.search_state import EventFile

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_MOST_LOG = 2**20
_NEXT_OFFSET = "Next-Offset"


@router.get("/searches/{search_id}/trials", response_model=d.TrialPage, responses=documented(404))
async def trials(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    limit: PageLimit = 200,
    offset: PageOffset = 0,
) -> Response:
    """Every trial as it stands, in the order of their beginning."""

    def page() -> object:
        found = _records(parts, search_id)
        items = [record.summary() for record in found[offset : offset + limit]]
        return {"items": items, **d.paging(offset, len(items), len(found))}

    asked = ("trials", search_id, limit, offset)
    return await parts.remembered.answer(asked, parts.searches.version(search_id), page)


@router.get(
    "/searches/{search_id}/trials/{number}",
    response_model=d.TrialDetails,
    responses=documented(404),
)
async def trial(
    search_id: SearchId,
    number: Annotated[int, InPath(ge=0, le=2**31, description="of a trial")],
    parts: InParts,
    _: Reader,
    repeat: Annotated[int, Query(ge=0, le=2**31, description="with other seeds: from 1")] = 0,
) -> Response:
    """One trial: its settings, its epochs, and why it ended."""

    def found() -> object:
        for record in _records(parts, search_id):
            if (record.number, record.repeat) == (number, repeat):
                return record.details()
        raise ProblemError(404, f"{search_id} has begun no trial {number}")

    asked = ("trial", search_id, number, repeat)
    return await parts.remembered.answer(asked, parts.searches.version(search_id), found)


def _records(parts: Parts, search_id: str) -> list[TrialRecord]:
    parts.searches.get(search_id)
    try:
        file = parts.file(search_id, EVENTS_FILE)
    except ProblemError:  # it has not begun
        return []
    return trial_records(EventFile(file).read())


@router.get(
    "/searches/{search_id}/log",
    response_class=PlainTextResponse,
    responses={
        200: {
            "content": {"text/plain": {}},
            "headers": {
                _NEXT_OFFSET: {
                    "description": "the byte behind what is told",
                    "schema": {"type": "integer"},
                }
            },
        },
        **documented(404),
    },
)
def log(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    last: Annotated[int, Query(ge=1, le=_MOST_LOG, description="so many bytes at most")] = 2**16,
    offset: Annotated[
        int | None, Query(ge=0, le=2**53, description="from this byte on; without it, of its end")
    ] = None,
) -> PlainTextResponse:
    """Lines that its processes printed; the server's own folder is called RUNS in them."""
    row = parts.searches.get(search_id)
    try:
        file = parts.file(search_id, LOG_FILE)
    except ProblemError:
        return PlainTextResponse("", headers={_NEXT_OFFSET: "0"})
    part = read_log(file, offset, last, is_over=row.state in OVER)
    text = part.text.replace(str(parts.runs), "RUNS")
    return PlainTextResponse(text, headers={_NEXT_OFFSET: str(part.next_offset)})
