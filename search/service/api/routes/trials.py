"""/v1/searches/{id}/trials and /log: the trials of a search, and the output of its processes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import PlainTextResponse, Response

from search.service.api.components import Components
from search.service.api.dependencies import InComponents, PageLimit, PageOffset, Reader, SearchId
from search.service.api.trial_state import TrialsOfSearch
from search.service.database.tables import FINAL_STATES
from search.service.problem_details import ProblemError, documented
from search.service.schemas import TrialDetails, TrialPage, paging
from search.storage.layout import LOG_FILE
from search.tracking.process_log import read_log

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_MAX_LOG_BYTES = 2**20
_NEXT_OFFSET = "Next-Offset"


@router.get("/searches/{search_id}/trials", response_model=TrialPage, responses=documented(404))
async def trials(
    search_id: SearchId,
    components: InComponents,
    _: Reader,
    limit: PageLimit = 200,
    offset: PageOffset = 0,
) -> Response:
    """Every trial as it stands, in the order of their beginning."""

    def page() -> object:
        trials = _trials(components, search_id)
        states = [] if trials is None else trials.all
        items = [state.summary() for state in states[offset : offset + limit]]
        return {"items": items, **paging(offset, len(items), len(states))}

    request, version = ("trials", search_id, limit, offset), components.database.version(search_id)
    return await components.response_cache.respond(request, version, page)


@router.get(
    "/searches/{search_id}/trials/{number}",
    response_model=TrialDetails,
    responses=documented(404),
)
async def trial(
    search_id: SearchId,
    number: Annotated[int, InPath(ge=0, le=2**31, description="of a trial")],
    components: InComponents,
    _: Reader,
    repeat: Annotated[int, Query(ge=0, le=2**31, description="with other seeds: from 1")] = 0,
) -> Response:
    """One trial: its settings, its epochs, and why it ended."""

    def details() -> object:
        trials = _trials(components, search_id)
        for state in [] if trials is None else trials.all:
            if trials is not None and (state.number, state.repeat) == (number, repeat):
                return trials.details(state)
        raise ProblemError(404, f"{search_id} has begun no trial {number}")

    request, version = ("trial", search_id, number, repeat), components.database.version(search_id)
    return await components.response_cache.respond(request, version, details)


def _trials(components: Components, search_id: str) -> TrialsOfSearch | None:
    components.searches.get(search_id)
    return components.trials.of(search_id)


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
    components: InComponents,
    _: Reader,
    last: Annotated[int, Query(ge=1, le=_MAX_LOG_BYTES, description="so many bytes at most")] = 2
    ** 16,
    offset: Annotated[
        int | None, Query(ge=0, le=2**53, description="from this byte on; without it, of its end")
    ] = None,
) -> PlainTextResponse:
    """Lines that its processes printed; the server's own folder is called RUNS in them."""
    row = components.searches.get(search_id)
    try:
        file = components.runs.file(search_id, LOG_FILE)
    except ProblemError:
        return PlainTextResponse("", headers={_NEXT_OFFSET: "0"})
    part = read_log(file, offset, last, is_over=row.state in FINAL_STATES)
    text = part.text.replace(str(components.runs.path), "RUNS")
    return PlainTextResponse(text, headers={_NEXT_OFFSET: str(part.next_offset)})
