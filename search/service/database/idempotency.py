"""Keys that let the same request, sent twice, begin one search only (Idempotency-Key)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from search.service.database.tables import IdempotencyKeyRow, SearchRow
from search.service.database.transactions import Database
from search.service.problem_details import ProblemError


@dataclass(frozen=True)
class IdempotencyKey:
    """The key of a request, which may be empty: whose it is, and a digest of the request's body."""

    owner: str
    key: str
    digest: str


def search_begun_with(database: Database, key: IdempotencyKey) -> SearchRow | None:
    """The search that this key has begun, if any; ProblemError 422 for another request's key."""
    if not key.key:
        return None
    with database.session() as session:
        row = session.get(IdempotencyKeyRow, (key.owner, key.key))
        if row is None:
            return None
        if row.digest != key.digest:
            raise ProblemError(
                422,
                "this Idempotency-Key belongs to a search with other settings: use a new one",
                field="Idempotency-Key",
            )
        return session.get(SearchRow, row.search_id)


def store_key(session: Session, key: IdempotencyKey, search_id: str) -> None:
    """Remember which search a key has begun; nothing for an empty one."""
    if key.key:
        session.add(
            IdempotencyKeyRow(owner=key.owner, key=key.key, digest=key.digest, search_id=search_id)
        )
