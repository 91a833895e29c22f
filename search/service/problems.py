"""What a client gets when a request cannot be served: problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

MEDIA_TYPE = "application/problem+json"


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


def install(app: FastAPI) -> None:
    """Let every error of the app become problem details."""
    app.add_exception_handler(ProblemError, _own)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(Exception, _bug)


async def _own(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return error.response()


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


async def _bug(_: Request, __: Exception) -> JSONResponse:
    return ProblemError(500, "the service failed at this request: its log says how").response()
