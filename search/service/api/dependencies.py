"""What routes depend on: the components, the caller and what the caller may do, parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi import Path as InPath

from search.service.access.authentication import require_caller
from search.service.access.tokens import Caller
from search.service.api.components import Components
from search.service.problem_details import ProblemError
from search.service.runs_folder import SEARCH_ID

ARCHITECTURE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}:[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"

SearchId = Annotated[str, InPath(pattern=SEARCH_ID, description="of a search")]
ArchitectureId = Annotated[
    str, InPath(pattern=ARCHITECTURE_ID, description="SEARCH:NAME, as in a front")
]
PageLimit = Annotated[int, Query(ge=1, le=1000)]
PageOffset = Annotated[int, Query(ge=0, le=2**31)]


def components_of(request: Request) -> Components:
    """Those of the app that serves the request."""
    components: Components = request.app.state.components
    return components


InComponents = Annotated[Components, Depends(components_of)]


def reader(request: Request) -> Caller:
    """Whoever may look; ProblemError 401 for others."""
    return require_caller(request, components_of(request).tokens)


def writer(request: Request) -> Caller:
    """Whoever may launch something; ProblemError 403 for those who may only look."""
    caller = reader(request)
    if caller.role == "reader":
        raise ProblemError(403, f"the token of {caller.name} may look, not launch")
    return caller


def owner(request: Request, search_id: SearchId) -> Caller:
    """Whoever may change this search; ProblemError 403 for others, but 404 if there is none."""
    caller = writer(request)
    if caller.role != "admin":
        search = components_of(request).searches.get(search_id)
        if not caller.may_change(search.owner):
            raise ProblemError(403, f"{search_id} is not {caller.name}'s: this needs an admin")
    return caller


def admin(request: Request) -> Caller:
    """Whoever may decide about everybody's searches; ProblemError 403 for others."""
    caller = reader(request)
    if caller.role != "admin":
        raise ProblemError(403, f"the token of {caller.name} is not that of an admin")
    return caller


Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
Owner = Annotated[Caller, Depends(owner)]
Admin = Annotated[Caller, Depends(admin)]
