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

from search.service import problem_details
from search.service.access.audit_log import AUDIT_FILE, AuditMiddleware
from search.service.access.request_guard import RequestGuard
from search.service.api.components import Components
from search.service.api.head_and_etag import HeadAndETagMiddleware
from search.service.api.metrics import Metrics, MetricsMiddleware
from search.service.api.routes import architectures, events, results, searches, server, trials
from search.service.problem_details import ProblemDetails, ProblemError

ROUTERS = tuple(
    routes.router for routes in (searches, results, trials, events, architectures, server)
)
"""All routes but /openapi.json."""

_DESCRIPTION = (
    "Launch budget-constrained searches for smaller convolutional networks, watch them, and "
    "fetch the Pareto-optimal architectures."
)
_log = logging.getLogger(__name__)


def create_app(
    components: Components, *, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()
) -> FastAPI:
    """The app; its lifespan starts and ends the queue and the workers.

    hosts: names under which it is reached; empty for any.  origins: of other sites whose pages
    may use it.
    """
    app = FastAPI(
        title="Espalier",
        version=importlib.metadata.version("espalier"),
        description=_DESCRIPTION,
        lifespan=_lifespan(components),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.components, app.state.metrics = components, Metrics(components)
    problem_details.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_api_route("/openapi.json", _openapi, include_in_schema=False)
    app.add_middleware(HeadAndETagMiddleware)
    app.add_middleware(RequestGuard, hosts=hosts, tokens=components.tokens, origins=origins)
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
    app.add_middleware(
        AuditMiddleware, file=components.runs.path / AUDIT_FILE, tokens=components.tokens
    )
    app.add_middleware(MetricsMiddleware, measures=app.state.metrics)
    return app


def _lifespan(components: Components) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        components.dispatcher.start()
        tasks = [asyncio.create_task(_warm(components))]
        if components.tokens is not None:
            tasks.append(asyncio.create_task(components.tokens.refresh_forever()))
        try:
            yield
        finally:
            components.is_closing.set()
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            components.worker.close()
            components.exporter.close()
            await asyncio.to_thread(components.dispatcher.close)

    return lifespan


async def _warm(components: Components) -> None:
    """Let the worker import what it needs, so that the first launch need not wait for it."""
    try:
        await components.catalogue()
    except ProblemError as error:
        _log.warning("the worker does not start: %s", error)


async def _openapi(request: Request) -> Response:
    """The API's description, whose settings are those of search.config."""
    app, components = request.app, request.app.state.components
    content: dict[str, Any] = copy.deepcopy(app.openapi())
    schemas = content["components"]["schemas"]
    for kind, schema in (await components.catalogue())["schemas"].items():
        schemas[searches.SCHEMAS[kind]] = schema
    schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    content["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    if components.tokens is not None:
        content["security"] = [{"token": []}]
    return JSONResponse(content)
