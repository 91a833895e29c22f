"""Transactions on the service's database, and counters of what they have changed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, Engine, Executable, Select, func
from sqlalchemy.orm import Session

from search.service.database.tables import Table

R = TypeVar("R", bound=Table)


class Database:
    """What all that read and change the rows share; rows are detached from their transactions.

    Used by the threads of one service process: no two services share a database.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.appending = threading.Lock()
        """Held while a search takes the last position of the queue."""

        self._counting = threading.Lock()
        self._versions: Counter[str] = Counter()
        self._version = 0

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction that only reads, or whose changes nobody waits for."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def changing(self, *search_ids: str) -> Iterator[Session]:
        """One transaction that changes these searches, or adds one."""
        try:
            with self.session() as session:
                yield session
        finally:
            self.count_change(search_ids)

    def version(self, search_id: str | None = None) -> int:
        """A number that differs after every change of a search, or of any."""
        return self._version if search_id is None else self._versions[search_id]

    def count_change(self, search_ids: Sequence[str]) -> None:
        """Let `version` give other numbers for these searches."""
        with self._counting:
            self._version += 1
            self._versions.update(search_ids)


def num_changed(session: Session, statement: Executable) -> int:
    """How many rows an UPDATE or DELETE has changed."""
    return int(cast(CursorResult[Any], session.execute(statement)).rowcount)


def page_of(session: Session, query: Select[R], limit: int, offset: int) -> tuple[list[R], int]:
    """Some rows of a query, and how many it has in all."""
    counted = query.with_only_columns(func.count(), maintain_column_froms=True).order_by(None)
    return list(session.scalars(query.limit(limit).offset(offset))), session.scalar(counted) or 0


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
