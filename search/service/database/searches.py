"""Searches as clients ask for them: added, listed, stopped, resumed, removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from search.service.database.idempotency import IdempotencyKey, store_key
from search.service.database.tables import ArchitectureRow, SearchRow, State
from search.service.database.transactions import Database, now_ms, num_changed, page_of
from search.service.problem_details import ProblemError
from search.storage.layout import StudyKind


class Searches:
    """Every method is one transaction.

    A state is left by one statement that names it: of two who want to change it, one does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        key: IdempotencyKey,
        is_taken: Callable[[str], bool],
        frame: Mapping[str, Any],
        max_unfinished: int | None = None,
        kind: StudyKind = "search",
    ) -> SearchRow:
        """A new study at the end of the queue, under its name or one with a number behind it.

        key: of the request; its owner becomes that of the search.  is_taken: whether an id is
        in use elsewhere, by a folder say.  max_unfinished: ProblemError 429 if so many of the
        owner's searches wait or run.
        """
        with self._database.appending, self._database.changing() as session:
            _require_quota(session, key.owner, max_unfinished)
            search_id, number = name, 1
            while session.get(SearchRow, search_id) is not None or is_taken(search_id):
                number += 1
                search_id = f"{name}-{number}"
            row = SearchRow(
                id=search_id,
                name=name,
                kind=kind,
                position=_next_position(session),
                state="queued",
                owner=key.owner,
                settings={**settings, "name": search_id},
                frame=dict(frame),
                created_ms=now_ms(),
            )
            session.add(row)
            session.flush()
            store_key(session, key, search_id)
            return row

    def adopt(self, row: SearchRow, architectures: Sequence[ArchitectureRow]) -> None:
        """Add a search that was made without the service."""
        with self._database.appending, self._database.changing(row.id) as session:
            row.position = _next_position(session)
            row.told_ms = row.ended_ms
            session.add(row)
            session.flush()
            session.add_all(architectures)

    def get(self, search_id: str) -> SearchRow:
        """The search; ProblemError 404 if there is none."""
        with self._database.session() as session:
            return _require(session, search_id)

    def page(
        self,
        *,
        state: str | None,
        name: str | None,
        limit: int,
        offset: int,
        kind: StudyKind | None = None,
    ) -> tuple[list[SearchRow], int]:
        """Searches, the newest first, and how many there are in all. name: a part of it."""
        query = select(SearchRow).order_by(SearchRow.position.desc())
        if state:
            query = query.where(SearchRow.state == state)
        if kind:
            query = query.where(SearchRow.kind == kind)
        if name:
            query = query.where(SearchRow.name.contains(name, autoescape=True))
        with self._database.session() as session:
            return page_of(session, query, limit, offset)

    def stop(self, search_id: str) -> SearchRow:
        """Let it end: at once if it waits, soon if it runs. ProblemError 409 if it is over."""
        with self._database.changing(search_id) as session:
            is_changed = update_in_state(
                session, search_id, "queued", state="stopped", ended_ms=now_ms()
            ) or update_in_state(session, search_id, "running", wish="stop")
            row = _require(session, search_id)
            if not is_changed:
                raise ProblemError(409, f"{search_id} is {row.state} already")
        return row

    def cancel_stop(self, search_id: str) -> SearchRow:
        """Take a `stop` back; ProblemError 409 unless the search runs and was to end."""
        with self._database.changing(search_id) as session:
            query = update(SearchRow).where(SearchRow.id == search_id, SearchRow.wish == "stop")
            is_changed = num_changed(session, query.values(wish=""))
            row = _require(session, search_id)
            if not is_changed:
                raise ProblemError(409, f"{search_id} is not about to be stopped")
        return row

    def resume(self, search_id: str, max_unfinished: int | None = None) -> SearchRow:
        """Queue it again; ProblemError 409 unless it was stopped or has failed.

        max_unfinished: as for `add`.
        """
        with self._database.appending, self._database.changing(search_id) as session:
            _require_quota(session, _require(session, search_id).owner, max_unfinished)
            again: dict[str, Any] = {"state": "queued", "wish": "", "reason": "", "ended_ms": None}
            again |= {"losses": 0, "position": _next_position(session)}
            is_queued = update_in_state(session, search_id, "stopped", "failed", **again)
            row = _require(session, search_id)
            if not is_queued:
                raise ProblemError(409, f"{search_id} is {row.state}: there is nothing to resume")
        return row

    def set_priority(self, search_id: str, priority: int) -> SearchRow:
        """Let it come before those of a lower priority while it waits."""
        with self._database.changing(search_id) as session:
            row = _require(session, search_id)
            row.priority = priority
        return row

    def replace_settings(self, search_id: str, settings: Mapping[str, Any]) -> None:
        """Replace those of a search that was stopped or has failed; of another one, nothing."""
        with self._database.changing(search_id) as session:
            update_in_state(session, search_id, "stopped", "failed", settings=dict(settings))

    def remove(self, search_id: str) -> None:
        """Remove it with its architectures; ProblemError 409 while it runs."""
        with self._database.changing(search_id) as session:
            query = delete(SearchRow).where(SearchRow.id == search_id, SearchRow.state != "running")
            if not num_changed(session, query):
                _require(session, search_id)
                raise ProblemError(409, f"{search_id} is running: stop it first")


def update_in_state(session: Session, search_id: str, *states: State, **values: Any) -> bool:
    """Set columns of a search if it is in one of these states; whether it was."""
    query = update(SearchRow).where(SearchRow.id == search_id, SearchRow.state.in_(states))
    return num_changed(session, query.values(**values)) > 0


def _require(session: Session, search_id: str) -> SearchRow:
    row = session.get(SearchRow, search_id)
    if row is None:
        raise ProblemError(404, f"there is no search {search_id!r}")
    return row


def _require_quota(session: Session, owner: str, max_unfinished: int | None) -> None:
    query = select(func.count()).select_from(SearchRow).where(SearchRow.owner == owner)
    num = session.scalar(query.where(SearchRow.state.in_(("queued", "running")))) or 0
    if max_unfinished is not None and num >= max_unfinished:
        raise ProblemError(
            429,
            f"{num} searches of {owner or 'this service'} wait or run, and {max_unfinished} may "
            "at a time: wait until one ends, or stop one",
            **{"Retry-After": "60"},
        )


def _next_position(session: Session) -> int:
    return (session.scalar(select(func.max(SearchRow.position))) or 0) + 1
