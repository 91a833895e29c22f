"""The audit log: a line of JSON for every change and every denied request, for the operator."""

from __future__ import annotations

import logging
import os
import re
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
from search.service.access.authentication import find_caller
from search.service.access.request_guard import SAFE_METHODS
from search.service.access.tokens import PREFIX, Tokens
from search.service.database.transactions import now_ms
from search.service.throttled_log import ThrottledLog

AUDIT_FILE = "audit.jsonl"
"""In the folder of all searches, for its owner alone to read."""

_HARMLESS_PATHS = ("/v1/preflight",)
_DENIED = (401, 403)
_RATE_LIMITED = 429
_REFUSED_LINES = RateLimitItemPerMinute(60)
"""Lines about requests of one address that were refused: nobody fills the disk with them."""

_MAX_PATH, _MAX_METHOD = 300, 20
_TOKEN = re.compile(PREFIX + r"[\w-]{43}")

_throttled_log = ThrottledLog(logging.getLogger(__name__))


class AuditMiddleware:
    """Writes down every request that may change something, and every one that is denied.

    The line is written before the response is sent. If it cannot be, as on a full disk, the
    service's log says so and the request is served.
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
        """None for requests that are not written down."""
        path, method = str(request.scope["path"]), request.method
        is_change = method not in SAFE_METHODS and path not in _HARMLESS_PATHS
        if status == _RATE_LIMITED or not (is_change or status in _DENIED):
            return None
        address = request.client.host if request.client else ""
        if status >= 400 and not self._limiter.hit(_REFUSED_LINES, address):
            return None
        caller = None if self._tokens is None else find_caller(request, self._tokens)
        return {
            "time_ms": now_ms(),
            "who": "" if caller is None else caller.name,
            "address": address,
            "method": method[:_MAX_METHOD],
            "path": _TOKEN.sub(f"{PREFIX}…", path)[:_MAX_PATH],
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
            _throttled_log.warn(AUDIT_FILE, f"lacks lines: {first_line(error)}")
        else:
            _throttled_log.clear(AUDIT_FILE)
