"""Who makes a request, by the bearer token that it carries."""

from __future__ import annotations

from fastapi import Request

from search.service.access.tokens import EVERYONE, Caller, Tokens
from search.service.problem_details import ProblemError


def require_caller(request: Request, tokens: Tokens | None) -> Caller:
    """Who asks; ProblemError 401 without a token that is known, where there are tokens."""
    if tokens is None:
        return EVERYONE
    caller = find_caller(request, tokens)
    if caller is None:
        raise ProblemError(
            401,
            "this needs a token: Authorization: Bearer TOKEN",
            **{"WWW-Authenticate": "Bearer"},
        )
    return caller


def may_read(request: Request, tokens: Tokens | None) -> bool:
    """Whether the caller may read, for answers that say less to those who may not."""
    return tokens is None or find_caller(request, tokens) is not None


def find_caller(request: Request, tokens: Tokens) -> Caller | None:
    """Whose token the request carries; None for none, or one that opens nothing."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return tokens.caller(token.strip()) if kind.lower() == "bearer" else None
