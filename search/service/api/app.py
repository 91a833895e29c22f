"""The service as an ASGI app."""

from __future__ import annotations

import asyncio
import copy
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from search.service import problem_details as problems
from search.service.access.audit_log import AUDIT_FILE, Audited
from search.service.access.request_guard import Gate
from search.service.api.components import Parts
from search.service.api.head_and_etag import Bodiless
from search.service.api.metrics import Measured, Measures
from search.service.api.routes import architectures as routes_architectures
from search.service.api.routes import events as routes_events
from search.service.api.routes import searches as routes_searches
from search.service.api.routes import server as routes_server
from search.service.api.routes import trials as routes_trials
from search.service.problem_details import ProblemDetails, ProblemError

_DESCRIPTION = (
    "Launch budget-constrained searches for smaller convolutional networks, watch them, and "
    "fetch the Pareto-optimal architectures."
)
_log = logging.getLogger(__name__)


def create_app(
    parts: Parts, *, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()
) -> FastAPI:
    """The app; its lifespan begins and ends the queue and the workers.

    hosts: names under which it is reached; empty for any.  origins: of other sites whose pages
    may use it.
    """
    app = FastAPI(
        title="Espalier",
        version=importlib.metadata.version("espalier"),
        description=_DESCRIPTION,
        lifespan=_lifespan(parts),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts, app.state.metrics = parts, Measures(parts)
    problems.install(app)
    for routes in (
        routes_searches,
        routes_trials,
        routes_events,
        routes_architectures,
        routes_server,
    ):
        app.include_router(routes.router)
    app.add_api_route("/openapi.json", _openapi, include_in_schema=False)
    app.add_middleware(Bodiless)
    app.add_middleware(Gate, hosts=hosts, tokens=parts.tokens, origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Type", "Idempotency-Key"),
                *("If-None-Match", "Last-Event-ID"),
            ],
            expose_headers=["ETag", "Location", "Next-Offset", "Retry-After"],
        )
    app.add_middleware(Audited, file=parts.runs / AUDIT_FILE, tokens=parts.tokens)
    app.add_middleware(Measured, measures=app.state.metrics)
    return app


def _lifespan(parts: Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.dispatcher.start()
        tasks = [asyncio.create_task(_warm(parts))]
        if parts.tokens is not None:
            tasks.append(asyncio.create_task(parts.tokens.follow()))
        try:
            yield
        finally:
            parts.is_closing.set()
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            parts.worker.close()
            parts.exporter.close()
            await asyncio.to_thread(parts.dispatcher.close)

    return lifespan


async def _warm(parts: Parts) -> None:
    """Let the worker import what it needs, so that the first launch need not wait for it."""
    try:
        await parts.offered()
    except ProblemError as error:
        _log.warning("the worker does not start: %s", error)


async def _openapi(request: Request) -> Response:
    """The API's description, whose settings are those of search.config.search_config."""
    app, parts = request.app, request.app.state.parts
    content: dict[str, Any] = copy.deepcopy(app.openapi())
    schemas = content["components"]["schemas"]
    schemas["SearchSettings"] = (await parts.offered())["schema"]
    schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    content["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    if parts.tokens is not None:
        content["security"] = [{"token": []}]
    return JSONResponse(content)
