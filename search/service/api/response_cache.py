"""Answers that are given again as long as nothing has changed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from fastapi.responses import JSONResponse

_MOST_BYTES = 64 << 20


class Remembered:
    """Bodies of answers by request, each good for one version of what it was made of.

    Used by the event loop alone; the least recently used go first.
    """

    def __init__(self) -> None:
        self._bodies: OrderedDict[Hashable, tuple[int, bytes]] = OrderedDict()
        self._size = 0
        # One after the other they are sooner done: a thread gives the interpreter away at every
        # row that it reads, and among many gets it back late.
        self._turns = CapacityLimiter(1)

    async def answer(self, request: Hashable, version: int, make: Callable[[], object]) -> Response:
        """The answer; `make` gives its JSON-able content in a thread, if it has to be made."""
        found = self._bodies.get(request)
        if found is not None and found[0] == version:
            self._bodies.move_to_end(request)
            body = found[1]
        else:
            body = await to_thread.run_sync(
                lambda: bytes(JSONResponse(make()).body), limiter=self._turns
            )
            self._put(request, version, body)
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        return Response(body, media_type="application/json", headers={"ETag": tag})

    def _put(self, request: Hashable, version: int, body: bytes) -> None:
        before = self._bodies.pop(request, (0, b""))[1]
        self._bodies[request] = version, body
        self._size += len(body) - len(before)
        while self._size > _MOST_BYTES:
            _, (_, gone) = self._bodies.popitem(last=False)
            self._size -= len(gone)
