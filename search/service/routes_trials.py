"""/v1/searches/{id}/trials and /log: what its trials do, and what its processes print."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import PlainTextResponse, Response

from mlflow_server.append_log import open_file
from search.service import descriptions as d
from search.service.launchers import LOG_FILE
from search.service.parts import InParts, Parts, Reader, SearchId
from search.service.problems import ProblemError, documented
from search.service.trial_records import TrialRecord, trial_records
from search.standing import FEED_FILE, EventFile

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_MOST_LOG = 2**20


@router.get("/searches/{search_id}/trials", response_model=d.TrialPage, responses=documented(404))
async def trials(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """Every trial as it stands, in the order of their beginning."""

    def page() -> object:
        found = _records(parts, search_id)
        end = min(offset + limit, len(found))
        return {
            "items": [record.summary() for record in found[offset:end]],
            "total": len(found),
            "next_offset": end if end < len(found) else None,
        }

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
        file = parts.file(search_id, FEED_FILE)
    except ProblemError:  # it has not begun
        return []
    return trial_records(EventFile(file).read())


@router.get(
    "/searches/{search_id}/log",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {}}}, **documented(404)},
)
def log(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    last: Annotated[
        int, Query(ge=1, le=_MOST_LOG, description="so many bytes of its end at most")
    ] = 2**16,
) -> PlainTextResponse:
    """The end of what its processes printed; the server's own folder is called RUNS in it."""
    parts.searches.get(search_id)
    try:
        file = parts.file(search_id, LOG_FILE)
    except ProblemError:
        return PlainTextResponse("")
    with open_file(file) as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - last))
        content = stream.read(last)
    if size > last:  # from the beginning of a line on
        content = content.partition(b"\n")[2]
    text = content.decode(errors="replace")
    return PlainTextResponse(text.replace(str(parts.runs), "RUNS"))
