"""Limits on connections, so that idle ones keep nobody out."""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_SECONDS = 15.0
"""From the first byte of a request, or the connection, to the end of its header."""

_MAX_CONNECTIONS = 1000
_SHARE = 0.5
"""Of the files that the process may have open: how many may be connections."""


def max_connections() -> int:
    """How many there may be at once; raises the limit on open files as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return min(_MAX_CONNECTIONS, int(_SHARE * hard))


class HeaderTimeoutProtocol(H11Protocol):
    """uvicorn's HTTP; closes connections whose request does not come in time.

    Where there are too many, it closes the one whose request has been due for longest.
    """

    max_connections = _MAX_CONNECTIONS
    _expecting: dict[HeaderTimeoutProtocol, asyncio.TimerHandle] = {}  # noqa: RUF012 - of all of them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            next(iter(self._expecting), self)._give_up()
        if not transport.is_closing():
            self._expect_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_served = self.cycle is not None and not self.cycle.response_complete
        if is_served:
            self._expect_nothing()
        else:
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_header(self) -> None:
        if self not in self._expecting:
            self._expecting[self] = self.loop.call_later(_HEADER_SECONDS, self._give_up)

    def _expect_nothing(self) -> None:
        timer = self._expecting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._expect_nothing()
        self.transport.abort()
