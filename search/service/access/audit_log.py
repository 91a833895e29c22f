"""Who changed something, or was not let in: a line of JSON each, for the operator."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_server.append_log import AppendLog
from pruning.errors import first_line
from search.service.access.request_guard import known_caller
from search.service.access.tokens import PREFIX, Tokens
from search.service.throttled_log import Announcements

AUDIT_FILE = "audit.jsonl"
"""In the folder of all searches, for its owner alone to read."""

_READING = ("GET", "HEAD", "OPTIONS")
_NOTHING_CHANGES = ("/v1/preflight",)
_NOT_LET_IN = (401, 403)
_TOO_MANY = 429
_IN_VAIN = RateLimitItemPerMinute(60)
"""Lines about requests of one address that were refused: nobody fills the disk with them."""

_MOST_PATH, _MOST_METHOD = 300, 20
_TOKEN = re.compile(PREFIX + r"[\w-]{43}")

_announcements = Announcements(logging.getLogger(__name__))


class Audited:
    """Writes down every request that may change something, and every one that is not let in.

    The line is there before the answer goes out. What cannot be written, as on a full disk, is
    said in the service's log, and the request is served.
    """

    def __init__(self, app: ASGIApp, file: Path, tokens: Tokens | None) -> None:
        self._app, self._file, self._tokens = app, file, tokens
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._writing = Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_audited(message: Message) -> None:
            if message["type"] == "http.response.start":
                line = self._line(request, message["status"])
                if line is not None:
                    await run_in_threadpool(self._write, line)
            await send(message)

        await self._app(scope, receive, send_audited)

    def _line(self, request: Request, status: int) -> dict[str, Any] | None:
        """None for what is of no interest here."""
        path, method = str(request.scope["path"]), request.method
        is_change = method not in _READING and path not in _NOTHING_CHANGES
        if status == _TOO_MANY or not (is_change or status in _NOT_LET_IN):
            return None
        address = request.client.host if request.client else ""
        if status >= 400 and not self._limiter.hit(_IN_VAIN, address):
            return None
        caller = None if self._tokens is None else known_caller(request, self._tokens)
        return {
            "time_ms": time.time_ns() // 1_000_000,
            "who": "" if caller is None else caller.name,
            "address": address,
            "method": method[:_MOST_METHOD],
            "path": _TOKEN.sub(f"{PREFIX}…", path)[:_MOST_PATH],
            "status": status,
        }

    def _write(self, line: dict[str, Any]) -> None:
        """Opened for each line, so that the file can be moved away at any time."""
        try:
            with self._writing:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                descriptor = os.open(self._file, flags, 0o600)
                try:
                    AppendLog(descriptor).append(line)
                finally:
                    os.close(descriptor)
        except OSError as error:
            _announcements.say(AUDIT_FILE, f"lacks lines: {first_line(error)}")
        else:
            _announcements.over(AUDIT_FILE)
