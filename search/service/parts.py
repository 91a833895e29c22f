"""What the routes of the service work with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, Request
from fastapi import Path as InPath

from search.service.dispatcher import Dispatcher
from search.service.guards import caller_of
from search.service.problems import ProblemError
from search.service.remembered import Remembered
from search.service.rules import Rules
from search.service.searches import Claim, Searches
from search.service.tokens import Caller, Tokens
from search.service.workbench import offered
from search.service.worker import Worker

SEARCH_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"
ARCHITECTURE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}:[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"


@dataclass
class Parts:
    """The service, put together; one for each app.

    runs: folder of all searches.  mlflow_url: of its server; empty if there is none.
    worker, exporter: for what needs torch; an export keeps no preflight waiting.
    device: what searches train on.  streams: of events that are open, by who reads them.
    """

    searches: Searches
    dispatcher: Dispatcher
    worker: Worker
    exporter: Worker
    rules: Rules
    runs: Path
    mlflow_url: str = ""
    device: str = "auto"
    tokens: Tokens | None = None
    mlflow_answers: Callable[[], Awaitable[bool]] | None = None
    _claiming: WeakValueDictionary[Claim, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    remembered: Remembered = field(default_factory=Remembered)
    is_closing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Counter[str] = field(default_factory=Counter)
    _offered: dict[str, Any] | None = None

    def claiming(self, claim: Claim) -> asyncio.Lock:
        """Of those who begin a search with the same key, one goes after the other."""
        return self._claiming.setdefault(claim, asyncio.Lock()) if claim.key else asyncio.Lock()

    async def offered(self) -> dict[str, Any]:
        """See search.service.workbench.offered; asked for once."""
        if self._offered is None:
            self._offered = await self.worker.do(offered)
        return self._offered

    @property
    def is_warm(self) -> bool:
        """Whether the worker has answered before."""
        return self._offered is not None

    def folder(self, search_id: str, *below: str) -> Path:
        """Something in the folder of a search; ProblemError 404 unless it is really in there."""
        home = self.runs.resolve()
        found = home.joinpath(search_id, *below)
        if found.resolve() != found or home not in found.parents or not found.exists():
            raise ProblemError(404, f"there is no {'/'.join((search_id, *below))}")
        return found


def parts_of(request: Request) -> Parts:
    """Those of the app that serves the request."""
    parts: Parts = request.app.state.parts
    return parts


def reader(request: Request) -> Caller:
    """Whoever may look; ProblemError 401 for others."""
    return caller_of(request, parts_of(request).tokens)


def launcher(request: Request) -> Caller:
    """Whoever may change something; ProblemError 403 for those who may only look."""
    caller = reader(request)
    if caller.role != "launch":
        raise ProblemError(403, f"the token of {caller.name} may look, not launch")
    return caller


InParts = Annotated[Parts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(reader)]
Launching = Annotated[Caller, Depends(launcher)]
SearchId = Annotated[str, InPath(pattern=SEARCH_ID, description="of a search")]
ArchitectureId = Annotated[
    str, InPath(pattern=ARCHITECTURE_ID, description="SEARCH:NAME, as in a front")
]
