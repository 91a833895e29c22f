"""Connections that ask for nothing keep nobody out."""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_SECONDS = 15.0
"""From the first byte of a request, or the connection, to the end of its header."""

_MOST = 1000
_SHARE = 0.5
"""Of the files that the process may have open, which connections may be."""


def most_connections() -> int:
    """How many there may be at once, once the process may have open what it ever may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _MOST if hard == resource.RLIM_INFINITY else min(_MOST, int(_SHARE * hard))


class PatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it; closes connections whose request does not come.

    Where there are too many, the one goes that a request has been expected of for longest.
    """

    most = _MOST
    _expecting: dict[PatientProtocol, asyncio.TimerHandle] = {}  # noqa: RUF012 - of all of them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
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
