"""The searches a service knows, kept in its database."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import CursorResult, Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session

from search.service.database.tables import ArchitectureRow, KeyRow, SearchRow
from search.service.problem_details import ProblemError

State = Literal["queued", "running", "finished", "failed", "stopped"]
STATES: tuple[State, ...] = ("queued", "running", "finished", "failed", "stopped")
OVER: tuple[State, ...] = ("finished", "failed", "stopped")

_COLUMNS = ("flops", "params", "validation_accuracy")
_MOST_REASON = 2000
_BY_FLOPS = (ArchitectureRow.flops, ArchitectureRow.key)


@dataclass(frozen=True)
class Claim:
    """A request's Idempotency-Key: whose it is, and the digest of what was asked for with it."""

    owner: str
    key: str
    digest: str


class Searches:
    """Reads and changes the rows; every method is one transaction, rows are detached.

    Used by the threads of one service process: no two services share a database. A state is
    left by one statement that names it, so that of two who want to change it one does.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._adding, self._counting = threading.Lock(), threading.Lock()
        self._versions: Counter[str] = Counter()
        self._version = 0

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def version(self, search_id: str | None = None) -> int:
        """A number that is another one after every change of a search, or of any."""
        return self._version if search_id is None else self._versions[search_id]

    @contextmanager
    def _changing(self, *search_ids: str) -> Iterator[Session]:
        """A transaction that changes these searches, or adds one."""
        try:
            with self._session() as session:
                yield session
        finally:
            self._changed(search_ids)

    def _changed(self, search_ids: Sequence[str]) -> None:
        with self._counting:
            self._version += 1
            self._versions.update(search_ids)

    # ---- what people ask for

    def claimed(self, claim: Claim) -> SearchRow | None:
        """The search this key has begun; ProblemError 422 if it was another request's."""
        with self._session() as session:
            row = session.get(KeyRow, (claim.owner, claim.key))
            if row is None:
                return None
            if row.digest != claim.digest:
                raise ProblemError(
                    422,
                    "this Idempotency-Key belongs to a search with other settings: use a new one",
                    field="Idempotency-Key",
                )
            return session.get(SearchRow, row.search_id)

    def add(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        claim: Claim,
        is_taken: Callable[[str], bool],
        frame: Mapping[str, Any],
        most: int | None = None,
    ) -> SearchRow:
        """A new search at the end of the queue, under its name or one with a number behind it.

        is_taken: whether an id is in use elsewhere, by a folder say.  claim: its `key` may be
        empty.  most: ProblemError 429 if its owner has so many that wait or run.
        """
        with self._adding, self._changing() as session:
            self._require_room(session, claim.owner, most)
            search_id, number = name, 1
            while session.get(SearchRow, search_id) is not None or is_taken(search_id):
                number += 1
                search_id = f"{name}-{number}"
            row = SearchRow(
                id=search_id,
                name=name,
                position=self._behind_all(session),
                state="queued",
                reason="",
                wish="",
                owner=claim.owner,
                settings={**settings, "name": search_id},
                progress={},
                frame=dict(frame),
                handle="",
                launches=0,
                losses=0,
                epochs=0,
                created_ms=now_ms(),
            )
            session.add(row)
            session.flush()
            if claim.key:
                session.add(
                    KeyRow(
                        owner=claim.owner, key=claim.key, digest=claim.digest, search_id=search_id
                    )
                )
            return row

    def adopt(self, row: SearchRow, found: Sequence[ArchitectureRow]) -> None:
        """Add a search that was made without the service."""
        with self._adding, self._changing(row.id) as session:
            row.position = self._behind_all(session)
            row.told_ms = row.ended_ms
            session.add(row)
            session.flush()
            session.add_all(found)

    def get(self, search_id: str) -> SearchRow:
        """The search; ProblemError 404 names the nearest."""
        with self._session() as session:
            row = session.get(SearchRow, search_id)
        if row is None:
            raise ProblemError(404, f"there is no search {search_id!r}")
        return row

    def page(
        self, *, state: str | None, name: str | None, limit: int, offset: int
    ) -> tuple[list[SearchRow], int]:
        """Searches, the newest first, and how many there are in all. name: a part of it."""
        conditions = []
        if state:
            conditions.append(SearchRow.state == state)
        if name:
            conditions.append(SearchRow.name.contains(name, autoescape=True))
        with self._session() as session:
            count = select(func.count()).select_from(SearchRow).where(*conditions)
            total = session.scalar(count) or 0
            rows = session.scalars(
                select(SearchRow)
                .where(*conditions)
                .order_by(SearchRow.position.desc())
                .limit(limit)
                .offset(offset)
            )
            return list(rows), total

    def counts(self) -> dict[str, int]:
        """How many searches are in each state."""
        with self._session() as session:
            query = select(SearchRow.state, func.count()).group_by(SearchRow.state)
            found = dict(session.execute(query).all())
        return {state: found.get(state, 0) for state in STATES}

    def oldest_wait_seconds(self) -> float:
        """Since the first search of the queue was launched; 0 if none waits."""
        query = select(func.min(SearchRow.created_ms)).where(SearchRow.state == "queued")
        with self._session() as session:
            since = session.scalar(query)
        return 0.0 if since is None else max(0.0, (now_ms() - since) / 1000)

    def stop(self, search_id: str) -> SearchRow:
        """Wish that it ends; at once if it waits. ProblemError 409 if it is over."""
        with self._changing(search_id) as session:
            is_stopped = self._left(
                session, search_id, "queued", state="stopped", ended_ms=now_ms()
            ) or self._left(session, search_id, "running", wish="stop")
            row = self._own(session, search_id)
            if not is_stopped:
                raise ProblemError(409, f"{search_id} is {row.state} already")
        return row

    def go_on(self, search_id: str) -> SearchRow:
        """Take back the wish that it ends; ProblemError 409 unless it runs and was to end."""
        with self._changing(search_id) as session:
            query = update(SearchRow).where(SearchRow.id == search_id, SearchRow.wish == "stop")
            is_changed = _num_changed(session, query.values(wish=""))
            row = self._own(session, search_id)
            if not is_changed:
                raise ProblemError(409, f"{search_id} is not about to be stopped")
        return row

    def resume(self, search_id: str, most: int | None = None) -> SearchRow:
        """Queue it again; ProblemError 409 unless it was stopped or has failed.

        most: as for `add`.
        """
        with self._adding, self._changing(search_id) as session:
            self._require_room(session, self._own(session, search_id).owner, most)
            position = self._behind_all(session)
            again = {"state": "queued", "wish": "", "reason": "", "losses": 0, "ended_ms": None}
            is_queued = self._left(
                session, search_id, "stopped", "failed", **again, position=position
            )
            row = self._own(session, search_id)
            if not is_queued:
                raise ProblemError(409, f"{search_id} is {row.state}: there is nothing to resume")
        return row

    def _require_room(self, session: Session, owner: str, most: int | None) -> None:
        query = select(func.count()).select_from(SearchRow).where(SearchRow.owner == owner)
        num = session.scalar(query.where(SearchRow.state.in_(("queued", "running")))) or 0
        if most is not None and num >= most:
            raise ProblemError(
                429,
                f"{num} searches of {owner or 'this service'} wait or run, and {most} may at a "
                "time: wait until one ends, or stop one",
                **{"Retry-After": "60"},
            )

    def set_priority(self, search_id: str, priority: int) -> SearchRow:
        """Let it come before those of a lower one when it waits."""
        with self._changing(search_id) as session:
            row = self._own(session, search_id)
            row.priority = priority
        return row

    def replace_settings(self, search_id: str, settings: Mapping[str, Any]) -> None:
        """Of a search that was stopped or has failed; nothing of another one."""
        with self._changing(search_id) as session:
            self._left(session, search_id, "stopped", "failed", settings=dict(settings))

    def remove(self, search_id: str) -> None:
        """Forget it; ProblemError 409 while it runs."""
        with self._changing(search_id) as session:
            gone = delete(SearchRow).where(SearchRow.id == search_id, SearchRow.state != "running")
            if not _num_changed(session, gone):
                self._own(session, search_id)
                raise ProblemError(409, f"{search_id} is running: stop it first")

    def _left(self, session: Session, search_id: str, *states: State, **values: Any) -> bool:
        """Set columns of a search that is in one of these states; whether it was."""
        query = update(SearchRow).where(SearchRow.id == search_id, SearchRow.state.in_(states))
        return _num_changed(session, query.values(**values)) > 0

    # ---- what became of them

    def running(self) -> list[SearchRow]:
        """Those that a process performs, or should."""
        query = select(SearchRow).where(SearchRow.state == "running").order_by(SearchRow.position)
        with self._session() as session:
            return list(session.scalars(query))

    def take_next(self, num: int) -> list[SearchRow]:
        """The next of the queue, which are running from now on.

        Those of the highest priority, of them those of the owner with the fewest that run, and of
        them those that have waited longest.
        """
        taken = {"state": "running", "handle": "", "losses": 0, "wish": ""}
        with self._session() as session:
            rows = []
            for _ in range(num):
                row = session.scalar(_next_of_queue())
                if row is None:
                    break
                begun = row.started_ms or now_ms()
                if self._left(session, row.id, "queued", **taken, started_ms=begun):
                    session.refresh(row)
                    rows.append(row)
        if rows:
            self._changed([row.id for row in rows])
        return rows

    def untold(self) -> list[SearchRow]:
        """Those that are over, the first to end first, and whose end webhooks were not told."""
        query = (
            select(SearchRow)
            .where(SearchRow.state.in_(OVER), SearchRow.ended_ms.is_not(None))
            .where(SearchRow.told_ms.is_distinct_from(SearchRow.ended_ms))
            .order_by(SearchRow.ended_ms)
        )
        with self._session() as session:
            return list(session.scalars(query))

    def note_told(self, rows: Sequence[SearchRow]) -> None:
        """These ends need no more telling; others of the same searches do."""
        with self._session() as session:
            for row in rows:
                query = update(SearchRow).where(SearchRow.id == row.id)
                session.execute(query.values(told_ms=row.ended_ms))

    def note(self, search_id: str, **values: Any) -> None:
        """Set columns of a search that runs; nothing of one that does not."""
        if "reason" in values:
            values["reason"] = values["reason"][:_MOST_REASON]
        with self._changing(search_id) as session:
            self._left(session, search_id, "running", **values)

    def end(self, search_id: str, state: State, reason: str = "") -> None:
        """One that runs is over."""
        self.note(search_id, state=state, reason=reason, handle="", wish="", ended_ms=now_ms())

    def put_architectures(self, search_id: str, rows: Sequence[ArchitectureRow]) -> None:
        """Add architectures of a search, or replace those of the same key."""
        with self._changing(search_id) as session:
            for row in rows:
                session.merge(row)

    def mark_front(self, search_id: str, on_it: Sequence[str], off_it: Sequence[str]) -> None:
        """Architectures, by their keys, that came onto the front, and that left it."""
        with self._changing(search_id) as session:
            for keys, is_on_front in ((on_it, True), (off_it, False)):
                if keys:
                    session.execute(
                        update(ArchitectureRow)
                        .where(ArchitectureRow.search_id == search_id)
                        .where(ArchitectureRow.key.in_(keys))
                        .values(on_front=is_on_front)
                    )

    # ---- architectures

    def architecture_page(
        self, search_id: str, *, limit: int, offset: int
    ) -> tuple[list[ArchitectureRow], int]:
        """Those of a search, by FLOPs, and how many there are in all."""
        is_own = ArchitectureRow.search_id == search_id
        query = select(ArchitectureRow).where(is_own).order_by(*_BY_FLOPS)
        with self._session() as session:
            total = session.scalar(select(func.count()).select_from(ArchitectureRow).where(is_own))
            return list(session.scalars(query.limit(limit).offset(offset))), total or 0

    def architectures(
        self, search_id: str, *, bounds: Mapping[str, float], on_front: bool
    ) -> list[ArchitectureRow]:
        """Those within bounds on flops, params and validation_accuracy (at least), by FLOPs."""
        conditions = [ArchitectureRow.search_id == search_id]
        if on_front:
            conditions.append(ArchitectureRow.on_front.is_(True))
        for name, value in bounds.items():
            column = getattr(ArchitectureRow, name)
            conditions.append(column >= value if name == "validation_accuracy" else column <= value)
        query = select(ArchitectureRow).where(*conditions).order_by(*_BY_FLOPS)
        with self._session() as session:
            return list(session.scalars(query))

    def architecture(self, search_id: str, key: str) -> ArchitectureRow:
        """One of them; ProblemError 404 if there is none."""
        with self._session() as session:
            row = session.get(ArchitectureRow, (search_id, key))
        if row is None:
            raise ProblemError(404, f"there is no architecture {key!r} of a search {search_id!r}")
        return row

    def _own(self, session: Session, search_id: str) -> SearchRow:
        row = session.get(SearchRow, search_id)
        if row is None:
            raise ProblemError(404, f"there is no search {search_id!r}")
        return row

    def _behind_all(self, session: Session) -> int:
        return (session.scalar(select(func.max(SearchRow.position))) or 0) + 1


def _next_of_queue() -> Select[SearchRow]:
    counted = select(SearchRow.owner, func.count().label("num"))
    running = counted.where(SearchRow.state == "running").group_by(SearchRow.owner).subquery()
    return (
        select(SearchRow)
        .where(SearchRow.state == "queued")
        .outerjoin(running, running.c.owner == SearchRow.owner)
        .order_by(SearchRow.priority.desc(), func.coalesce(running.c.num, 0), SearchRow.position)
        .limit(1)
    )


def _num_changed(session: Session, query: Any) -> int:
    found = cast(CursorResult[Any], session.execute(query))
    return int(found.rowcount)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
