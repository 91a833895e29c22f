"""What a client gets when a request cannot be served: problem details (RFC 9457)."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pruning.errors import first_line
from search.service.throttled_log import ThrottledLog
from search.storage.atomic_files import is_disk_full

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = {"Retry-After": "10"}
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

_throttled_log = ThrottledLog(logging.getLogger(__name__))


class ProblemDetails(BaseModel):
    """Why a request was not served (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="what the status means")
    status: int
    detail: str = Field(description="what is wrong, in a sentence")
    field: str | None = Field(None, description="the setting or parameter that is wrong")


class ProblemError(Exception):
    """Raised where a request cannot be served; becomes the response."""

    def __init__(self, status: int, detail: str, field: str | None = None, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.headers = status, detail, field, headers

    def response(self) -> JSONResponse:
        """As it goes over the wire."""
        details = ProblemDetails(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            field=self.field,
        )
        return JSONResponse(
            details.model_dump(exclude_none=True),
            self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the API's description: these statuses come with problem details."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def problem_of(error: Exception) -> ProblemError:
    """What a client is told of any error; the log says more of what is not the client's.

    503 while the database or the folder of searches is away, 507 while the disk is full: both
    come back by themselves.
    """
    if isinstance(error, ProblemError):
        return error
    if is_disk_full(error) or "disk is full" in str(error):  # as SQLite says it
        _throttled_log.warn("the disk", first_line(error))
        return ProblemError(507, "the service's disk is full", **_RETRY_AFTER)
    if isinstance(error, SQLAlchemyError):
        _throttled_log.warn("the database", first_line(error))
        return ProblemError(503, "the service's database is away", **_RETRY_AFTER)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        _throttled_log.warn("the folder of searches", first_line(error))
        return ProblemError(503, "the service cannot write to its folder", **_RETRY_AFTER)
    _throttled_log.warn("a request failed", first_line(error), bug=error)
    return ProblemError(500, "the service failed at this request: its log says how")


def install(app: FastAPI) -> None:
    """Let every error of the app become problem details."""
    for kind in (ProblemError, SQLAlchemyError, OSError, Exception):
        app.add_exception_handler(kind, _any)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _nobody)


async def _any(_: Request, error: Exception) -> JSONResponse:
    return problem_of(error).response()


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return ProblemError(error.status_code, f"{error.detail}", **headers).response()


async def _validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, *path = (str(part) for part in first["loc"])
    name = ".".join(path) or place
    return ProblemError(422, f"{name}: {first['msg']}", field=name).response()


async def _nobody(_: Request, __: Exception) -> JSONResponse:
    """Whoever asked has gone: what is answered is heard by nobody."""
    return ProblemError(400, "the request ended too early").response()
