"""/v1/searches: launched, listed, stopped, resumed, removed; other studies alike, by their kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from pruning.errors import SearchStateError
from search.service.access.family_source import named_in_runs
from search.service.access.settings_body import parse_settings
from search.service.api.components import Components
from search.service.api.dependencies import (
    Admin,
    InComponents,
    Owner,
    PageOffset,
    Reader,
    SearchId,
    Writer,
)
from search.service.database.idempotency import IdempotencyKey, search_begun_with
from search.service.database.tables import SearchRow, State
from search.service.problem_details import ProblemError, documented
from search.service.schemas import (
    Preflight,
    Priority,
    SearchDetails,
    SearchPage,
    SearchSummary,
    paging,
)
from search.service.torch_worker.tasks import check_settings
from search.service.torch_worker.worker import OverTimeError
from search.storage.layout import StudyKind

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

SCHEMAS: Mapping[StudyKind, str] = {
    "search": "SearchSettings",
    "family": "FamilySettings",
    "correlation": "CorrelationSettings",
}
"""What the settings of each kind of study are called in the API's description."""

_SETTINGS_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [{"$ref": f"#/components/schemas/{n}"} for n in SCHEMAS.values()]
                }
            },
            "application/toml": {"schema": {"type": "string"}},
        },
    }
}
_Kind = Annotated[
    StudyKind, Query(description="of study, whose settings the body holds: those and no others")
]
_MAX_NAME = 80


@router.post(
    "/searches",
    status_code=201,
    response_model=SearchDetails,
    responses={
        200: {"model": SearchDetails, "description": "The search that this key began before"},
        **documented(400, 408, 413, 415, 503),
    },
    openapi_extra=_SETTINGS_BODY,
)
async def launch(
    request: Request,
    components: InComponents,
    caller: Writer,
    kind: _Kind = "search",
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
    """Queue a search, or another study, after its preflight.

    422 says what the command line would say.
    """
    content = parse_settings(await request.body(), request.headers.get("content-type", ""))
    request_key = IdempotencyKey(caller.name, key, _digest(kind, content))
    async with components.key_lock(request_key):
        row = await run_in_threadpool(search_begun_with, components.database, request_key)
        if row is not None:
            return JSONResponse(SearchDetails.of(row), 200)
        row = await _add(components, request_key, kind, content)
    components.dispatcher.wake()
    return JSONResponse(SearchDetails.of(row), 201, headers={"Location": f"/v1/searches/{row.id}"})


def _digest(kind: StudyKind, content: Mapping[str, Any]) -> str:
    """By which the same request is known again; that of a search does not name its kind."""
    named = content if kind == "search" else {"kind": kind, "settings": content}
    canonical = json.dumps(named, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def _add(
    components: Components, key: IdempotencyKey, kind: StudyKind, content: Mapping[str, Any]
) -> SearchRow:
    resolved = components.policy.resolve(await _named(components, kind, content))
    checked = await _check(components, kind, resolved, key.owner)
    settings = {**checked["settings"], "mlflow_url": ""}
    return await run_in_threadpool(
        components.searches.add,
        settings["name"][:_MAX_NAME].rstrip("-."),
        settings,
        key=key,
        is_taken=lambda name: (components.runs.path / name).exists(),
        frame=checked["frame"],
        max_unfinished=components.policy.limits.most_searches,
        kind=kind,
    )


async def _named(
    components: Components, kind: StudyKind, content: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The settings, with what a family is made from; ProblemError 422 where that is not here."""
    if kind != "family":
        return content
    return await run_in_threadpool(named_in_runs, content, components.runs)


@router.post(
    "/preflight",
    response_model=Preflight,
    responses=documented(400, 408, 413, 415, 503),
    openapi_extra=_SETTINGS_BODY,
)
async def preflight(
    request: Request, components: InComponents, caller: Writer, kind: _Kind = "search"
) -> Any:
    """What a search, or another study, with these settings would begin with; nothing is kept."""
    content = parse_settings(await request.body(), request.headers.get("content-type", ""))
    settings = components.policy.resolve(await _named(components, kind, content))
    try:
        checked = await _check(components, kind, settings, caller.name, measures_weights=True)
    except OverTimeError as error:
        if not settings.get("weights"):
            raise
        checked = await _check(components, kind, settings, caller.name)
        weights = components.policy.shown(settings["weights"])
        line = f"{weights}: not measured, since {error.detail}; a search begins with their score"
        checked["frame"]["lines"].insert(1, f"weights       {line}")
    return checked["frame"]


async def _check(
    components: Components,
    kind: StudyKind,
    settings: Mapping[str, Any],
    caller: str,
    *,
    measures_weights: bool = False,
) -> dict[str, Any]:
    """All settings and the preflight; ProblemError 422 for what cannot be, or is not allowed.

    settings: as the policy has resolved them.  measures_weights: as for `check_settings`.
    """
    settings = {**settings, "runs": str(components.runs.path)}
    arguments = (kind, settings, components.server, measures_weights)
    try:
        checked = await components.worker.run(check_settings, *arguments, caller=caller)
    except ProblemError as error:
        error.detail = components.shown(error.detail)
        raise
    checked["frame"]["lines"] = list(map(components.shown, checked["frame"]["lines"]))
    components.policy.require_limits(checked["settings"])
    return checked


@router.get("/searches", response_model=SearchPage)
async def list_searches(
    components: InComponents,
    _: Reader,
    *,
    state: State | None = None,
    kind: StudyKind | None = None,
    name: Annotated[str | None, Query(max_length=100, description="a part of it")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: PageOffset = 0,
) -> Response:
    """Searches and other studies, the newest first."""

    def page() -> object:
        rows, total = components.searches.page(
            state=state, kind=kind, name=_storable(name), limit=limit, offset=offset
        )
        items = [SearchSummary.of(row) for row in rows]
        return {"items": items, **paging(offset, len(rows), total)}

    request = ("searches", state, kind, name, limit, offset)
    return await components.response_cache.respond(request, components.database.version(), page)


def _storable(text: str | None) -> str | None:
    return text.replace("\0", "�") if text else None  # PostgreSQL has no such character


@router.get("/searches/{search_id}", response_model=SearchDetails, responses=documented(404))
def show_search(search_id: SearchId, components: InComponents, _: Reader) -> Response:
    """Its state, progress, settings and preflight."""
    return JSONResponse(SearchDetails.of(components.searches.get(search_id)))


@router.post(
    "/searches/{search_id}/stop",
    response_model=SearchDetails,
    responses=documented(404, 409),
)
def stop(search_id: SearchId, components: InComponents, _: Owner) -> Response:
    """End it early; what was finished is kept, what was under way up to its last checkpoint."""
    row = components.searches.stop(search_id)
    components.dispatcher.wake()
    return JSONResponse(SearchDetails.of(row))


@router.delete(
    "/searches/{search_id}/stop",
    response_model=SearchDetails,
    responses=documented(404, 409),
)
def go_on(search_id: SearchId, components: InComponents, _: Owner) -> Response:
    """Let one go on that was asked to end and has not: it goes on from its last checkpoint."""
    row = components.searches.cancel_stop(search_id)
    components.dispatcher.wake()
    return JSONResponse(SearchDetails.of(row))


@router.post(
    "/searches/{search_id}/resume",
    response_model=SearchDetails,
    responses=documented(404, 409, 503),
)
async def resume(search_id: SearchId, components: InComponents, caller: Owner) -> Response:
    """Queue one that was stopped, or has failed, again, after its preflight; it goes on."""
    await _recheck(components, search_id, caller.name)
    max_unfinished = components.policy.limits.most_searches
    row = await run_in_threadpool(components.searches.resume, search_id, max_unfinished)
    components.dispatcher.wake()
    return JSONResponse(SearchDetails.of(row))


@router.put(
    "/searches/{search_id}/priority",
    response_model=SearchDetails,
    responses=documented(400, 404, 413),
)
def set_priority(
    search_id: SearchId, wanted: Priority, components: InComponents, _: Admin
) -> Response:
    """Let it come before searches of a lower priority (0 at first) while it waits."""
    row = components.searches.set_priority(search_id, wanted.priority)
    return JSONResponse(SearchDetails.of(row))


async def _recheck(components: Components, search_id: str, caller: str) -> None:
    """Check stored settings, which may have been adopted, against what is allowed now."""
    row = await run_in_threadpool(components.searches.get, search_id)
    if row.state not in ("stopped", "failed"):
        return
    try:
        named = await _named(components, row.kind, row.settings)
        settings = components.policy.resolve_stored(named, row.kind)
        await _check(components, row.kind, settings, caller)
    except ProblemError as error:
        if error.status not in (409, 422):
            raise  # too much is being checked just now
        raise ProblemError(409, f"{search_id} cannot go on here: {error.detail}") from error
    kept = {name: row.settings.get(name, "") for name in ("name", "runs", "mlflow_url", "device")}
    await run_in_threadpool(components.searches.replace_settings, search_id, {**settings, **kept})


@router.delete("/searches/{search_id}", status_code=204, responses=documented(404, 409))
def remove(search_id: SearchId, components: InComponents, _: Owner) -> Response:
    """Remove it with its architectures; its runs in MLflow stay."""
    try:
        with components.runs.locked(search_id):
            components.searches.remove(search_id)
            components.runs.remove(search_id)
    except SearchStateError:
        components.searches.get(search_id)
        raise ProblemError(409, f"a process works on {search_id}: stop it first") from None
    return Response(status_code=204)
