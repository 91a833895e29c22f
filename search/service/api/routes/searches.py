"""/v1/searches: launching, watching, stopping, and what came of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from pruning.cost import Budget, Cost
from pruning.errors import BudgetError, SearchStateError
from search.service import schemas as d
from search.service.access.settings_policy import parsed
from search.service.api.components import (
    Changing,
    Deciding,
    InParts,
    Launching,
    PageLimit,
    PageOffset,
    Parts,
    Reader,
    SearchId,
)
from search.service.api.downloads import StoredFile, stored_file
from search.service.database.searches import Claim, State
from search.service.database.tables import ArchitectureRow, SearchRow
from search.service.problem_details import ProblemError, documented
from search.service.runs_folder import kept_from_others, remove_folder
from search.service.torch_worker.tasks import checked
from search.storage.layout import RESULTS_FILE

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_SETTINGS_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SearchSettings"}},
            "application/toml": {"schema": {"type": "string"}},
        },
    }
}
_MOST_NAME = 80
_MOST_COUNT = 2**62
"""Of what a database compares with."""

_REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; " + (
    "style-src 'unsafe-inline'; img-src data:"
)


@router.post(
    "/searches",
    status_code=201,
    response_model=d.SearchDetails,
    responses={
        200: {"model": d.SearchDetails, "description": "The search that this key began before"},
        **documented(400, 408, 413, 415, 503),
    },
    openapi_extra=_SETTINGS_BODY,
)
async def launch(
    request: Request,
    parts: InParts,
    caller: Launching,
    key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            max_length=200,
            pattern="^[ -~]*$",
            description="the same request with the same key begins no second search",
        ),
    ] = "",
) -> Response:
    """Queue a search, after its preflight; 422 says what the command line would say."""
    content = parsed(await request.body(), request.headers.get("content-type", ""))
    canonical = json.dumps(content, sort_keys=True, default=str)
    claim = Claim(caller.name, key, hashlib.sha256(canonical.encode()).hexdigest())
    row = await _claimed(parts, claim)
    if row is not None:
        return JSONResponse(d.SearchDetails.of(row), 200)
    async with parts.claiming(claim):
        row = await _claimed(parts, claim)
        if row is not None:
            return JSONResponse(d.SearchDetails.of(row), 200)
        row = await _added(parts, claim, content)
    parts.dispatcher.wake()
    return JSONResponse(
        d.SearchDetails.of(row), 201, headers={"Location": f"/v1/searches/{row.id}"}
    )


async def _claimed(parts: Parts, claim: Claim) -> SearchRow | None:
    return await run_in_threadpool(parts.searches.claimed, claim) if claim.key else None


async def _added(parts: Parts, claim: Claim, content: Mapping[str, Any]) -> SearchRow:
    found = await _checked(parts, content, claim.owner)
    settings = {**found["settings"], "runs": str(parts.runs), "mlflow_url": ""}
    return await run_in_threadpool(
        parts.searches.add,
        settings["name"][:_MOST_NAME].rstrip("-."),
        settings,
        claim=claim,
        is_taken=lambda name: (parts.runs / name).exists(),
        frame=found["frame"],
        most=parts.rules.limits.most_searches,
    )


@router.post(
    "/preflight",
    response_model=d.Preflight,
    responses=documented(400, 408, 413, 415, 503),
    openapi_extra=_SETTINGS_BODY,
)
async def preflight(request: Request, parts: InParts, caller: Launching) -> Any:
    """What a search with these settings would begin with; nothing is kept."""
    content = parsed(await request.body(), request.headers.get("content-type", ""))
    return (await _checked(parts, content, caller.name))["frame"]


async def _checked(parts: Parts, content: Mapping[str, Any], who: str) -> dict[str, Any]:
    """What the settings come to; ProblemError 422 for what cannot be, or is not allowed."""
    return await _within_limits(parts, parts.rules.settings(content), who)


async def _within_limits(parts: Parts, settings: Mapping[str, Any], who: str) -> dict[str, Any]:
    """What settings that the rules allow come to; ProblemError 422 for more than is allowed."""
    most = parts.rules.limits.most_params
    found = await parts.worker.do(checked, settings, parts.device, most, who=who)
    parts.rules.require_limits(found["settings"])
    return found


@router.get("/searches", response_model=d.SearchPage)
async def list_searches(
    parts: InParts,
    _: Reader,
    state: State | None = None,
    name: Annotated[str | None, Query(max_length=100, description="a part of it")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: PageOffset = 0,
) -> Response:
    """Searches, the newest first."""

    def page() -> object:
        rows, total = parts.searches.page(
            state=state, name=_storable(name), limit=limit, offset=offset
        )
        items = [d.SearchSummary.of(row) for row in rows]
        return {"items": items, **d.paging(offset, len(rows), total)}

    asked = ("searches", state, name, limit, offset)
    return await parts.remembered.answer(asked, parts.searches.version(), page)


def _storable(text: str | None) -> str | None:
    return text.replace("\0", "�") if text else None  # PostgreSQL has no such character


@router.get("/searches/{search_id}", response_model=d.SearchDetails, responses=documented(404))
def show_search(search_id: SearchId, parts: InParts, _: Reader) -> Response:
    """How it stands."""
    return JSONResponse(d.SearchDetails.of(parts.searches.get(search_id)))


@router.post(
    "/searches/{search_id}/stop",
    response_model=d.SearchDetails,
    responses=documented(404, 409),
)
def stop(search_id: SearchId, parts: InParts, _: Changing) -> Response:
    """End it early; what was finished is kept, what was under way up to its last epoch."""
    row = parts.searches.stop(search_id)
    parts.dispatcher.wake()
    return JSONResponse(d.SearchDetails.of(row))


@router.delete(
    "/searches/{search_id}/stop",
    response_model=d.SearchDetails,
    responses=documented(404, 409),
)
def go_on(search_id: SearchId, parts: InParts, _: Changing) -> Response:
    """Let one go on that was asked to end and has not: it goes on from its last epoch."""
    row = parts.searches.go_on(search_id)
    parts.dispatcher.wake()
    return JSONResponse(d.SearchDetails.of(row))


@router.post(
    "/searches/{search_id}/resume",
    response_model=d.SearchDetails,
    responses=documented(404, 409, 503),
)
async def resume(search_id: SearchId, parts: InParts, caller: Changing) -> Response:
    """Queue one that was stopped, or has failed, again, after its preflight; it goes on."""
    await _allow_again(parts, search_id, caller.name)
    most = parts.rules.limits.most_searches
    row = await run_in_threadpool(parts.searches.resume, search_id, most)
    parts.dispatcher.wake()
    return JSONResponse(d.SearchDetails.of(row))


@router.put(
    "/searches/{search_id}/priority",
    response_model=d.SearchDetails,
    responses=documented(400, 404, 413),
)
def set_priority(search_id: SearchId, wanted: d.Priority, parts: InParts, _: Deciding) -> Response:
    """Let it come before searches of a lower priority (0 at first) while it waits."""
    row = parts.searches.set_priority(search_id, wanted.priority)
    return JSONResponse(d.SearchDetails.of(row))


async def _allow_again(parts: Parts, search_id: str, who: str) -> None:
    """Hold what it asks for, which may have been adopted, against what is allowed now."""
    row = await run_in_threadpool(parts.searches.get, search_id)
    if row.state not in ("stopped", "failed"):
        return
    try:
        settings = parts.rules.stored(row.settings)
        await _within_limits(parts, settings, who)
    except ProblemError as error:
        if error.status not in (409, 422):
            raise  # too much is being checked just now
        raise ProblemError(409, f"{search_id} cannot go on here: {error.detail}") from error
    kept = {name: row.settings.get(name, "") for name in ("name", "runs", "mlflow_url", "device")}
    await run_in_threadpool(parts.searches.replace_settings, search_id, {**settings, **kept})


@router.delete("/searches/{search_id}", status_code=204, responses=documented(404, 409))
def remove(search_id: SearchId, parts: InParts, _: Changing) -> Response:
    """Remove it with its architectures; its runs in MLflow stay."""
    try:
        with kept_from_others(parts.runs, search_id):
            parts.searches.remove(search_id)
            remove_folder(parts.runs, search_id)
    except SearchStateError:
        parts.searches.get(search_id)
        raise ProblemError(409, f"a process works on {search_id}: stop it first") from None
    return Response(status_code=204)


@router.get("/searches/{search_id}/front", response_model=d.Front, responses=documented(404))
async def front(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    flops_max: Annotated[
        str | None, Query(max_length=30, description="such as 30M, or 25% of the base network")
    ] = None,
    params_max: Annotated[str | None, Query(max_length=30, description="such as 300k")] = None,
    sort: Annotated[
        str,
        Query(
            pattern=r"^-?(flops|params|validation_accuracy)$",
            description="flops, params or validation_accuracy; - before it for falling",
        ),
    ] = "flops",
) -> Response:
    """The front, within bounds; of a search that is not over, what was found so far."""

    def found() -> object:
        row = parts.searches.get(search_id)
        given = {"flops": flops_max, "params": params_max}
        bounds = _bounds({name: text for name, text in given.items() if text}, row)
        rows = parts.searches.architectures(search_id, bounds=bounds, on_front=True)
        name = sort.removeprefix("-")
        rows.sort(key=lambda one: getattr(one, name), reverse=sort.startswith("-"))
        return _front(row, rows)

    asked = ("front", search_id, flops_max, params_max, sort)
    return await parts.remembered.answer(asked, parts.searches.version(search_id), found)


def _front(row: SearchRow, rows: Sequence[ArchitectureRow]) -> dict[str, Any]:
    return {
        "search": row.id,
        "state": row.state,
        "is_final": row.state == "finished",
        "convention": d.FLOPS,
        "items": [d.Architecture.of(found, row) for found in rows],
    }


def _bounds(given: Mapping[str, str], row: SearchRow) -> dict[str, float]:
    bounds = {}
    base = (row.frame or {}).get("base") or {}
    for name, text in given.items():
        try:
            (bound,) = Budget.parse(f"{name}={text}").bounds
        except BudgetError as error:
            raise ProblemError(422, str(error), f"{name}_max") from None
        if bound.is_share and name not in base:
            raise ProblemError(422, "the cost of the base network is not known", f"{name}_max")
        value = bound.of_base(Cost(**base)).value if bound.is_share else bound.value
        bounds[name] = min(value, _MOST_COUNT)
    return bounds


@router.get(
    "/searches/{search_id}/architectures",
    response_model=d.ArchitecturePage,
    responses=documented(404),
)
def architectures(
    search_id: SearchId,
    parts: InParts,
    _: Reader,
    limit: PageLimit = 200,
    offset: PageOffset = 0,
) -> Response:
    """Every architecture that was found, on the front or not, by FLOPs."""
    row = parts.searches.get(search_id)
    rows, total = parts.searches.architecture_page(search_id, limit=limit, offset=offset)
    return JSONResponse({**_front(row, rows), **d.paging(offset, len(rows), total)})


@router.get(
    "/searches/{search_id}/verdict", response_model=d.Verdict, responses=documented(404, 409)
)
def verdict(search_id: SearchId, parts: InParts, _: Reader) -> Response:
    """Which kind of network won at which budget; once it is finished."""
    found = _results(parts, search_id)
    try:
        shown = d.Verdict(
            search=search_id,
            lines=found["verdict"].splitlines(),
            contests=found["contests"],
            notes=found["notes"],
            failures=found["failures"],
        )
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ProblemError(409, f"the results of {search_id} are damaged") from None
    return JSONResponse(shown.model_dump())


@router.get(
    "/searches/{search_id}/results",
    response_model=dict[str, Any],
    responses=documented(404, 409),
)
def results(search_id: SearchId, parts: InParts, _: Reader) -> Response:
    """Everything a finished search knows, as results.report.Results.from_mapping reads it."""
    return JSONResponse(_results(parts, search_id))


def _results(parts: Parts, search_id: str) -> dict[str, Any]:
    _require_finished(parts, search_id)
    return parts.content(search_id, RESULTS_FILE)


def _require_finished(parts: Parts, search_id: str) -> None:
    row = parts.searches.get(search_id)
    if row.state != "finished":
        raise ProblemError(409, f"{search_id} is {row.state}: it has no results yet")


@router.get(
    "/searches/{search_id}/report",
    response_class=StoredFile,
    responses={**stored_file("text/html"), **documented(409)},
)
def report(search_id: SearchId, parts: InParts, _: Reader) -> StoredFile:
    """The report of a finished search: one page that opens offline."""
    _require_finished(parts, search_id)
    return StoredFile(
        parts.file(search_id, "report.html"),
        media_type="text/html",
        headers={"Content-Security-Policy": _REPORT_POLICY},
    )
