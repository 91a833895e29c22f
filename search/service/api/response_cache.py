"""Responses that are sent again as long as nothing has changed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from fastapi.responses import JSONResponse

_MAX_BYTES = 64 << 20


class ResponseCache:
    """Bodies of responses by request, each valid for one version of the data behind it.

    Used by the event loop alone; the least recently used go first.
    """

    def __init__(self) -> None:
        self._bodies: OrderedDict[Hashable, tuple[int, bytes]] = OrderedDict()
        self._size = 0
        # One at a time is faster: a thread releases the interpreter at every row that it reads,
        # and among many threads gets it back late.
        self._turns = CapacityLimiter(1)

    async def respond(
        self, request: Hashable, version: int, make: Callable[[], object]
    ) -> Response:
        """The response; `make` returns its JSON-able content, in a thread, if it is not known."""
        cached = self._bodies.get(request)
        if cached is not None and cached[0] == version:
            self._bodies.move_to_end(request)
            body = cached[1]
        else:
            body = await to_thread.run_sync(
                lambda: bytes(JSONResponse(make()).body), limiter=self._turns
            )
            self._put(request, version, body)
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        return Response(body, media_type="application/json", headers={"ETag": tag})

    def _put(self, request: Hashable, version: int, body: bytes) -> None:
        _, replaced = self._bodies.pop(request, (0, b""))
        self._bodies[request] = version, body
        self._size += len(body) - len(replaced)
        while self._size > _MAX_BYTES:
            _, (_, dropped) = self._bodies.popitem(last=False)
            self._size -= len(dropped)
