"""/v1/searches/{id}: what came of it: front, architectures, verdict, results, figure, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from pruning.cost import Budget, Cost
from pruning.errors import BudgetError
from search.service.api.components import Components
from search.service.api.dependencies import InComponents, PageLimit, PageOffset, Reader, SearchId
from search.service.api.downloads import RangeFileResponse, documented_file
from search.service.database.tables import ArchitectureRow, SearchRow
from search.service.problem_details import ProblemError, documented
from search.service.schemas import (
    FLOPS,
    Architecture,
    ArchitecturePage,
    Front,
    ScoreKind,
    Verdict,
    paging,
)
from search.storage.layout import FIGURES, RESULTS_FILES

router = APIRouter(prefix="/v1", tags=["searches"], responses=documented(401, 403, 422, 429))

_MAX_COUNT = 2**62
"""Of what a database compares with."""

_REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; " + (
    "style-src 'unsafe-inline'; img-src data:"
)


@router.get("/searches/{search_id}/front", response_model=Front, responses=documented(404))
async def front(
    search_id: SearchId,
    components: InComponents,
    _: Reader,
    flops_max: Annotated[
        str | None, Query(max_length=30, description="such as 30M, or 25% of the base network")
    ] = None,
    params_max: Annotated[str | None, Query(max_length=30, description="such as 300k")] = None,
    sort: Annotated[
        str,
        Query(
            pattern=r"^-?(flops|params|validation_score)$",
            description="flops, params or validation_score; - before it for falling",
        ),
    ] = "flops",
) -> Response:
    """The front, within bounds; of a search that is not over, what was found so far."""

    def content() -> object:
        row = components.searches.get(search_id)
        texts = {"flops": flops_max, "params": params_max}
        bounds = _bounds({name: text for name, text in texts.items() if text}, row)
        rows = components.architectures.within(search_id, bounds=bounds, on_front=True)
        name = sort.removeprefix("-")
        rows.sort(key=lambda row: getattr(row, name), reverse=sort.startswith("-"))
        return _front(row, rows, components)

    request = ("front", search_id, flops_max, params_max, sort)
    version = components.database.version(search_id)
    return await components.response_cache.respond(request, version, content)


def _front(
    row: SearchRow, rows: Sequence[ArchitectureRow], components: Components
) -> dict[str, Any]:
    base_row = components.architectures.base(row.id)
    return {
        "search": row.id,
        "state": row.state,
        "is_final": row.state == "finished",
        "convention": FLOPS,
        "score": ScoreKind.of(row),
        "items": [Architecture.of(architecture, row, base_row) for architecture in rows],
    }


def _bounds(texts: Mapping[str, str], row: SearchRow) -> dict[str, float]:
    bounds = {}
    base = (row.frame or {}).get("base") or {}
    for name, text in texts.items():
        try:
            (bound,) = Budget.parse(f"{name}={text}").bounds
        except BudgetError as error:
            raise ProblemError(422, str(error), f"{name}_max") from None
        if bound.is_share and name not in base:
            raise ProblemError(422, "the cost of the base network is not known", f"{name}_max")
        value = bound.of_base(Cost(**base)).value if bound.is_share else bound.value
        bounds[name] = min(value, _MAX_COUNT)
    return bounds


@router.get(
    "/searches/{search_id}/architectures",
    response_model=ArchitecturePage,
    responses=documented(404),
)
def architectures(
    search_id: SearchId,
    components: InComponents,
    _: Reader,
    limit: PageLimit = 200,
    offset: PageOffset = 0,
) -> Response:
    """Every architecture that was found, on the front or not, by FLOPs; the base network first."""
    row = components.searches.get(search_id)
    rows, total = components.architectures.page(search_id, limit=limit, offset=offset)
    return JSONResponse({**_front(row, rows, components), **paging(offset, len(rows), total)})


@router.get("/searches/{search_id}/verdict", response_model=Verdict, responses=documented(404, 409))
def verdict(search_id: SearchId, components: InComponents, _: Reader) -> Response:
    """What to take, and which kind of network won at which budget; of a search alone, finished."""
    _require_search(components, search_id)
    content = _results(components, search_id)
    try:
        shown = Verdict(
            search=search_id,
            recommendations=content.get("recommendations", []),
            basis=content.get("basis", ""),
            lines=content["verdict"].splitlines(),
            contrasts=content.get("contrasts", []),
            contests=content["contests"],
            notes=content["notes"],
            failures=content["failures"],
        )
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ProblemError(409, f"the results of {search_id} are damaged") from None
    return JSONResponse(shown.model_dump())


@router.get(
    "/searches/{search_id}/results",
    response_model=dict[str, Any],
    responses=documented(404, 409),
)
def results(search_id: SearchId, components: InComponents, _: Reader) -> Response:
    """Everything that a finished study knows.

    Of a search: as results.report.Results.from_mapping reads it. Of a family: `runs`, and `points`
    with means and deviations over them. Of a correlation study: `criteria` and their coefficients.
    """
    return JSONResponse(_results(components, search_id))


def _results(components: Components, search_id: str) -> dict[str, Any]:
    row = _require_finished(components, search_id)
    content = components.runs.json_object(search_id, RESULTS_FILES[row.kind])
    content.pop("settings", None)  # they name folders of the server; the study's own are shown
    return content


def _require_finished(components: Components, search_id: str) -> SearchRow:
    row = components.searches.get(search_id)
    if row.state != "finished":
        raise ProblemError(409, f"{search_id} is {row.state}: it has no results yet")
    return row


def _require_search(components: Components, search_id: str) -> None:
    """ProblemError 409 for a study of another kind."""
    row = components.searches.get(search_id)
    if row.kind != "search":
        raise ProblemError(
            409,
            f"{search_id} is a {row.kind} study, and this is asked of a search: it has results, a "
            "figure and a report",
        )


@router.get(
    "/searches/{search_id}/report",
    response_class=RangeFileResponse,
    responses={**documented_file("text/html"), **documented(409)},
)
def report(search_id: SearchId, components: InComponents, _: Reader) -> RangeFileResponse:
    """The report of a finished search, or another study: one page that opens offline."""
    _require_finished(components, search_id)
    return RangeFileResponse(
        components.runs.file(search_id, "report.html"),
        media_type="text/html",
        headers={"Content-Security-Policy": _REPORT_POLICY},
    )


@router.get(
    "/searches/{search_id}/figure",
    response_class=RangeFileResponse,
    responses={**documented_file("image/png"), **documented(409)},
)
def figure(search_id: SearchId, components: InComponents, _: Reader) -> RangeFileResponse:
    """The figure of a finished study: score against cost, or criteria against the oracle."""
    row = _require_finished(components, search_id)
    return RangeFileResponse(
        components.runs.file(search_id, FIGURES[row.kind]), media_type="image/png"
    )
