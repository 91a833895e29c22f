"""What this server offers, whether it works, and the page."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from search.service import schemas as d
from search.service.access.request_guard import CONTENT_POLICY, is_let_in
from search.service.api.components import InParts, Parts, Reader
from search.service.problem_details import ProblemError, documented

router = APIRouter(tags=["server"], responses=documented(403, 429))

_PAGE = Path(__file__).parents[2] / "page"
_MODULES = (
    *("page", "api", "architectures", "elements", "launch"),
    *("list", "log", "plot", "search", "trials"),
)
_ASSETS = {
    **{f"{name}.js": "text/javascript" for name in _MODULES},
    **{"style.css": "text/css", "icon.svg": "image/svg+xml"},
}
_PLOTLY = "plotly.min.js"


@router.get("/v1/models", response_model=d.Named, responses=documented(401))
async def models(parts: InParts, _: Reader) -> Response:
    """The networks that this server offers; wrn-DEPTH-WIDTH stands for any of those."""
    found = (await parts.offered())["models"]
    return JSONResponse({"items": [*found, *parts.rules.builders]})


@router.get("/v1/datasets", response_model=d.Named, responses=documented(401))
async def datasets(parts: InParts, _: Reader) -> Response:
    """The data sets that this server knows; PATH is taken from its data folder."""
    return JSONResponse({"items": (await parts.offered())["datasets"]})


@router.get("/v1/criteria", response_model=d.Criteria, responses=documented(401))
async def criteria(parts: InParts, _: Reader) -> Response:
    """The pruning methods, and the ranges that their settings are searched in."""
    return JSONResponse({"items": (await parts.offered())["criteria"]})


@router.get("/livez", response_model=d.Alive)
async def livez() -> Response:
    """200 while the process answers at all, whatever else is away."""
    return JSONResponse({"status": "ok"})


@router.get("/healthz", response_model=d.Health)
async def healthz(request: Request, parts: InParts) -> Response:
    """200 while the process works."""
    return JSONResponse(await _health(request, parts))


@router.get(
    "/readyz",
    response_model=d.Health,
    responses={503: {"model": d.Health, "description": "Something is not ready yet"}},
)
async def readyz(request: Request, parts: InParts) -> Response:
    """200 while searches can be launched: database, folder, queue, preflight, MLflow are there."""
    health = await _health(request, parts)
    return JSONResponse(health, 200 if health["status"] == "ok" else 503)


async def _health(request: Request, parts: Parts) -> dict[str, Any]:
    found = {
        "database": await _answers(parts),
        "folder": await run_in_threadpool(_can_write, parts.runs),
        "queue": parts.dispatcher.is_alive,
        "preflight": parts.is_warm,
    }
    if parts.mlflow_answers is not None:
        found["mlflow"] = await parts.mlflow_answers()
    return {
        "status": "ok" if all(found.values()) else "starting",
        "version": importlib.metadata.version("espalier"),
        "mlflow_url": parts.mlflow_place if is_let_in(request, parts.tokens) else "",
        "parts": found,
    }


def _can_write(folder: Path) -> bool:
    """Whether anything can be written there now: a disk may be full, or away."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(4096))
            stream.flush()
    except OSError:
        return False
    return True


async def _answers(parts: Parts) -> bool:
    try:
        await run_in_threadpool(parts.searches.counts)
    except SQLAlchemyError:
        return False
    return True


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
    is_small = "gzip" in accept_encoding
    content, tag = _content(file, is_small=is_small)
    headers = {"Cache-Control": caching, "ETag": tag, "Vary": "Accept-Encoding"}
    if is_small:
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


@functools.cache
def _content(file: Path, *, is_small: bool) -> tuple[bytes, str]:
    """Of a part of the page, and a tag that tells it from that of another version."""
    content = file.read_bytes()
    content = gzip.compress(content, mtime=0) if is_small else content
    return content, f'"{hashlib.sha256(content).hexdigest()[:24]}"'


def _plotly() -> Path:
    """The script that Python's plotly brings."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "package_data" / _PLOTLY
