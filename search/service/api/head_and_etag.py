"""Responses without a body: to HEAD, and 304 to clients that have it already (RFC 9110)."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS_OF_304 = (b"etag", b"cache-control", b"content-location", b"date", b"expires", b"vary")
"""Of the response that a 304 stands for."""


class HeadAndETagMiddleware:
    """Lets the app inside answer GET, and drops the body where none is wanted.

    The app is told then that the client has disconnected, so that a stream ends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        is_head, if_none_match = (
            scope["method"] == "HEAD",
            Headers(scope=scope).get("if-none-match", ""),
        )
        has_answered, is_answered, is_read = asyncio.Event(), False, False

        async def send_some(message: Message) -> None:
            nonlocal is_answered
            if is_answered:
                return
            if message["type"] == "http.response.start":
                is_same = message["status"] == 200 and _matches(_etag(message), if_none_match)
                if is_same:
                    kept = [
                        pair for pair in message["headers"] if pair[0].lower() in _HEADERS_OF_304
                    ]
                    message = {**message, "status": 304, "headers": kept}
                await send(message)
                if is_same or is_head:
                    is_answered = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    has_answered.set()
                return
            await send(message)

        async def receive_some() -> Message:
            nonlocal is_read
            if is_head and is_read:
                await has_answered.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        await self._app({**scope, "method": "GET"}, receive_some, send_some)


def _etag(message: Message) -> str:
    return str(dict(message["headers"]).get(b"etag", b"").decode("latin-1"))


def _matches(etag: str, if_none_match: str) -> bool:
    """Whether the header If-None-Match names the tag, by the weak comparison."""
    if not etag or not if_none_match:
        return False
    names = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return "*" in names or etag.removeprefix("W/") in names
