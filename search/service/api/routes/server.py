"""What this server offers, whether it works, and the page."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from anyio import move_on_after, to_thread
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from search.service.access.authentication import may_read
from search.service.access.request_guard import CONTENT_POLICY
from search.service.api.components import Components
from search.service.api.dependencies import InComponents, Reader
from search.service.problem_details import ProblemError, documented
from search.service.schemas import Alive, Criteria, Health, Named

router = APIRouter(tags=["server"], responses=documented(403, 429))

_PAGE = Path(__file__).parents[2] / "page"
_MODULES = (
    *("page", "api", "architectures", "elements", "launch"),
    *("list", "log", "plot", "results", "search", "trials"),
)
_ASSETS = {
    **{f"{name}.js": "text/javascript" for name in _MODULES},
    **{"style.css": "text/css", "icon.svg": "image/svg+xml"},
}
_PLOTLY = "plotly.min.js"
_CHECK_SECONDS = 3.0


@router.get("/v1/models", response_model=Named, responses=documented(401))
async def models(components: InComponents, _: Reader) -> Response:
    """The networks that this server offers; wrn-DEPTH-WIDTH stands for any of those."""
    models = (await components.catalogue())["models"]
    return JSONResponse({"items": [*models, *components.policy.builders]})


@router.get("/v1/datasets", response_model=Named, responses=documented(401))
async def datasets(components: InComponents, _: Reader) -> Response:
    """The data sets that this server knows; PATH is taken from its data folder."""
    return JSONResponse({"items": (await components.catalogue())["datasets"]})


@router.get("/v1/criteria", response_model=Criteria, responses=documented(401))
async def criteria(components: InComponents, _: Reader) -> Response:
    """The pruning methods, and the ranges that their settings are searched in."""
    return JSONResponse({"items": (await components.catalogue())["criteria"]})


@router.get("/livez", response_model=Alive)
async def livez() -> Response:
    """200 while the process answers at all, whatever else is away."""
    return JSONResponse({"status": "ok"})


@router.get("/healthz", response_model=Health)
async def healthz(request: Request, components: InComponents) -> Response:
    """200 while the process works."""
    return JSONResponse(await _health(request, components))


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Something is not ready yet"}},
)
async def readyz(request: Request, components: InComponents) -> Response:
    """200 while searches can be launched: database, folder, queue, preflight, MLflow are there."""
    health = await _health(request, components)
    return JSONResponse(health, 200 if health["status"] == "ok" else 503)


async def _health(request: Request, components: Components) -> dict[str, Any]:
    checks = {
        "database": await _succeeds(lambda: bool(components.queue.counts())),
        "folder": await _succeeds(components.runs.is_writable),
        "queue": components.dispatcher.is_alive,
        "preflight": components.is_warm,
    }
    if components.mlflow is not None and components.mlflow.answers is not None:
        checks["mlflow"] = await components.mlflow.answers()
    return {
        "status": "ok" if all(checks.values()) else "starting",
        "version": importlib.metadata.version("espalier"),
        "mlflow_url": components.mlflow_url if may_read(request, components.tokens) else "",
        "parts": checks,
    }


async def _succeeds(check: Callable[[], bool]) -> bool:
    """Whether a check says so in time; one that hangs is left to its thread."""
    with move_on_after(_CHECK_SECONDS), suppress(SQLAlchemyError):
        return await to_thread.run_sync(check, abandon_on_cancel=True)
    return False


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **documented(401)},
)
def metrics(request: Request, _: Reader) -> Response:
    """For Prometheus: searches by state, requests by status, how long they took."""
    return Response(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )


@router.get("/", include_in_schema=False)
def page() -> FileResponse:
    """The page for people."""
    policy = {"Content-Security-Policy": CONTENT_POLICY}
    return FileResponse(_PAGE / "index.html", media_type="text/html", headers=policy)


@router.get("/assets/{name}", include_in_schema=False)
def asset(
    name: str, accept_encoding: Annotated[str, Header(alias="Accept-Encoding")] = ""
) -> Response:
    """What the page loads; all of it comes from here."""
    if name == _PLOTLY:
        file, media_type, caching = _plotly(), "text/javascript", "max-age=86400"
    elif name in _ASSETS:
        # asked for anew each time, so that no module of an older version meets newer ones
        file, media_type, caching = _PAGE / name, _ASSETS[name], "no-cache"
    else:
        raise ProblemError(404, "the page has no such part")
    is_gzipped = "gzip" in accept_encoding
    content, tag = _content(file, is_gzipped=is_gzipped)
    headers = {"Cache-Control": caching, "ETag": tag, "Vary": "Accept-Encoding"}
    if is_gzipped:
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


@functools.cache
def _content(file: Path, *, is_gzipped: bool) -> tuple[bytes, str]:
    """The bytes of a file of the page, and an ETag."""
    content = file.read_bytes()
    content = gzip.compress(content, mtime=0) if is_gzipped else content
    return content, f'"{hashlib.sha256(content).hexdigest()[:24]}"'


def _plotly() -> Path:
    """The script that Python's plotly brings."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "package_data" / _PLOTLY
