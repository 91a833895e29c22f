"""What every request passes before it reaches the service: host, origin, size, rate, token."""

from __future__ import annotations

import asyncio
import ipaddress
from urllib.parse import urlsplit

from fastapi import Request
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.service.access.authentication import find_caller
from search.service.access.settings_body import MAX_BYTES
from search.service.access.tokens import Tokens
from search.service.problem_details import ProblemError

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""For the service's own page: nothing from elsewhere. Plotly writes styles of its own."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
_READS = RateLimitItemPerSecond(1000)
_CHANGES = RateLimitItemPerSecond(300, 60)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Of requests that change nothing (RFC 9110)."""

_SINGLE_HEADERS = (
    "host",
    "origin",
    "authorization",
    "content-type",
    "content-length",
    "idempotency-key",
)
_MAX_DIGITS = 18
_BODY_SECONDS = 30.0
"""For the next part of a body."""

_PROBES = ("/livez", "/healthz", "/readyz", "/metrics")
"""Asked under the address of a machine or a pod; without a token they tell of no search."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RequestGuard:
    """Refuses requests from other sites, malformed ones, and too many or too large ones.

    origins: of other sites whose pages may ask as well, such as https://tools.example.
    hosts: names under which the service is reached; the header of a request must name one, so
    that no other site can be made to stand for it (DNS rebinding). Empty for any.
    tokens: whoever has one is counted by name, everyone else by address.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: tuple[str, ...],
        tokens: Tokens | None = None,
        origins: tuple[str, ...] = (),
    ) -> None:
        self._app, self._hosts, self._tokens, self._origins = app, hosts, tokens, origins
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        try:
            self._check(request)
            bounded = _bounded(receive, request)
            await self._app(scope, bounded, send_with_headers)
        except ProblemError as problem:
            await problem.response()(scope, receive, send_with_headers)

    def _check(self, request: Request) -> None:
        for name in _SINGLE_HEADERS:
            if len(request.headers.getlist(name)) > 1:
                raise ProblemError(400, f"the header {name} is given more than once", name)
        host = request.headers.get("host", "").lower()
        is_probe = request.url.path in _PROBES
        if self._hosts and not is_probe and _name_in(host) not in self._hosts:
            raise ProblemError(403, "this service does not answer under that host name")
        origin = request.headers.get("origin")
        is_own = bool(host) and (origin or "").lower().partition("://")[2] == host
        if origin is not None and not is_own and origin not in self._origins:
            raise ProblemError(403, "requests of other sites are not served")
        limit = _READS if request.method in SAFE_METHODS else _CHANGES
        if not self._limiter.hit(limit, *self._counted_as(request)):
            raise ProblemError(429, "too many requests: wait a little", **{"Retry-After": "1"})
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ProblemError(400, "content-length is a number of bytes", "content-length")
        if len(length) > _MAX_DIGITS or int(length) > MAX_BYTES:
            raise _too_large()

    def _counted_as(self, request: Request) -> tuple[str, str]:
        """Whose requests are counted together: made-up tokens are no way around a limit."""
        caller = None if self._tokens is None else find_caller(request, self._tokens)
        if caller is not None:
            return "token", caller.name
        return "address", request.client.host if request.client else ""


def _name_in(host: str) -> str:
    """Of a Host header, without its port; empty if it is malformed."""
    try:
        address = urlsplit(f"//{host}")
    except ValueError:
        return ""
    return address.hostname or "" if address.netloc == host and "@" not in host else ""


def _too_large() -> ProblemError:
    return ProblemError(413, f"a request has at most {MAX_BYTES} bytes")


def _bounded(receive: Receive, request: Request) -> Receive:
    """The body without more bytes than allowed, whatever its header says, or waiting for ever."""
    num_bytes, is_whole = 0, False

    async def next_part() -> Message:
        nonlocal num_bytes, is_whole
        if is_whole:  # what comes now is that the client has gone
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), _BODY_SECONDS)
        except TimeoutError:
            raise ProblemError(408, "the rest of the request does not come") from None
        num_bytes += len(message.get("body", b""))
        if num_bytes > MAX_BYTES:
            raise _too_large()
        is_whole = not message.get("more_body", False)
        return message

    return receive if request.method in SAFE_METHODS else next_part
