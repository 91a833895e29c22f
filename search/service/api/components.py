"""What the routes of the service work with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, Query, Request
from fastapi import Path as InPath

from search.service.access.request_guard import caller_of
from search.service.access.settings_policy import Rules
from search.service.access.tokens import Caller, Tokens
from search.service.api.response_cache import Remembered
from search.service.database.searches import Claim, Searches
from search.service.mlflow.credentials import Login
from search.service.problem_details import ProblemError
from search.service.queue.dispatcher import Dispatcher
from search.service.torch_worker.tasks import offered
from search.service.torch_worker.worker import Worker

SEARCH_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"
ARCHITECTURE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}:[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"
EXPORTS = "exports"
"""Folder in that of a search, for what was made of its architectures."""


@dataclass
class Parts:
    """The service, put together; one for each app.

    runs: folder of all searches.  mlflow_url: of its server; empty if there is none.
    mlflow_public_url: its address for clients, if that is another one.
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
    mlflow_login: Login | None = None
    mlflow_public_url: str = ""
    _claiming: WeakValueDictionary[Claim, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    remembered: Remembered = field(default_factory=Remembered)
    is_closing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Counter[str] = field(default_factory=Counter)
    _offered: dict[str, Any] | None = None

    @property
    def mlflow_place(self) -> str:
        """Where clients find MLflow; empty if there is none."""
        return (self.mlflow_url and self.mlflow_public_url) or self.mlflow_url

    def claiming(self, claim: Claim) -> asyncio.Lock:
        """Of those who begin a search with the same key, one goes after the other."""
        return self._claiming.setdefault(claim, asyncio.Lock()) if claim.key else asyncio.Lock()

    async def offered(self) -> dict[str, Any]:
        """See search.service.torch_worker.tasks.offered; asked for once."""
        if self._offered is None:
            self._offered = await self.worker.do(offered)
        return self._offered

    @property
    def is_warm(self) -> bool:
        """Whether the worker has answered before."""
        return self._offered is not None

    def folder(self, search_id: str, *below: str) -> Path:
        """The folder of a search, or one in it; ProblemError 404 unless it is really in there."""
        return self._inside((search_id, *below), Path.is_dir)

    def file(self, search_id: str, *below: str) -> Path:
        """A file in the folder of a search, as `folder`; a pipe, which may never end, is none."""
        return self._inside((search_id, *below), Path.is_file)

    def content(self, search_id: str, *below: str) -> dict[str, Any]:
        """The JSON object in such a file; ProblemError 409 if it holds anything else."""
        file = self.file(search_id, *below)
        try:
            found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ProblemError(409, f"{'/'.join((search_id, *below))} is damaged")
        return found

    def _inside(self, names: Sequence[str], is_right: Callable[[Path], bool]) -> Path:
        home = self.runs.resolve()
        found = home.joinpath(*names)
        if found.resolve() != found or home not in found.parents or not is_right(found):
            raise ProblemError(404, f"there is no {'/'.join(names)}")
        return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def parts_of(request: Request) -> Parts:
    """Those of the app that serves the request."""
    parts: Parts = request.app.state.parts
    return parts


def reader(request: Request) -> Caller:
    """Whoever may look; ProblemError 401 for others."""
    return caller_of(request, parts_of(request).tokens)


def launcher(request: Request) -> Caller:
    """Whoever may launch something; ProblemError 403 for those who may only look."""
    caller = reader(request)
    if caller.role == "reader":
        raise ProblemError(403, f"the token of {caller.name} may look, not launch")
    return caller


SearchId = Annotated[str, InPath(pattern=SEARCH_ID, description="of a search")]


def changer(request: Request, search_id: SearchId) -> Caller:
    """Whoever may change this search; ProblemError 403 for others, but 404 if there is none."""
    caller = launcher(request)
    if caller.role != "admin":
        owner = parts_of(request).searches.get(search_id).owner
        if not caller.may_change(owner):
            raise ProblemError(403, f"{search_id} is not {caller.name}'s: this needs an admin")
    return caller


def admin(request: Request) -> Caller:
    """Whoever may decide about everybody's searches; ProblemError 403 for others."""
    caller = reader(request)
    if caller.role != "admin":
        raise ProblemError(403, f"the token of {caller.name} is not that of an admin")
    return caller


InParts = Annotated[Parts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(reader)]
Launching = Annotated[Caller, Depends(launcher)]
Changing = Annotated[Caller, Depends(changer)]
Deciding = Annotated[Caller, Depends(admin)]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
PageOffset = Annotated[int, Query(ge=0, le=2**31)]
ArchitectureId = Annotated[
    str, InPath(pattern=ARCHITECTURE_ID, description="SEARCH:NAME, as in a front")
]
