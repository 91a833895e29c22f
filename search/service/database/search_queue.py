"""Searches as the dispatcher sees them: which one is next, which run, how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select, update

from search.service.database.searches import update_in_state
from search.service.database.tables import FINAL_STATES, STATES, SearchRow, State
from search.service.database.transactions import Database, now_ms

_MAX_REASON = 2000


class SearchQueue:
    """Every method is one transaction; see `Searches` for what clients change meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> dict[str, int]:
        """How many searches are in each state."""
        with self._database.session() as session:
            query = select(SearchRow.state, func.count()).group_by(SearchRow.state)
            counts = dict(session.execute(query).all())
        return {state: counts.get(state, 0) for state in STATES}

    def oldest_wait_seconds(self) -> float:
        """Since the search was launched that has waited longest; 0 if none waits."""
        query = select(func.min(SearchRow.created_ms)).where(SearchRow.state == "queued")
        with self._database.session() as session:
            since = session.scalar(query)
        return 0.0 if since is None else max(0.0, (now_ms() - since) / 1000)

    def running(self) -> list[SearchRow]:
        """Those that a process performs, or should."""
        query = select(SearchRow).where(SearchRow.state == "running").order_by(SearchRow.position)
        with self._database.session() as session:
            return list(session.scalars(query))

    def take_next(self, num: int) -> list[SearchRow]:
        """The next of the queue, which are running from now on.

        Those of the highest priority come first, of them those of the owner with the fewest
        running searches, and of them those that have waited longest.
        """
        taken = {"state": "running", "handle": "", "losses": 0, "wish": ""}
        rows: list[SearchRow] = []
        with self._database.session() as session:
            for _ in range(num):
                row = session.scalar(_next_of_queue())
                if row is None:
                    break
                started_ms = row.started_ms or now_ms()
                if update_in_state(session, row.id, "queued", **taken, started_ms=started_ms):
                    session.refresh(row)
                    rows.append(row)
        if rows:
            self._database.count_change([row.id for row in rows])
        return rows

    def update(self, search_id: str, **values: Any) -> None:
        """Set columns of a search that runs; of one that does not, nothing."""
        if "reason" in values:
            values["reason"] = values["reason"][:_MAX_REASON]
        with self._database.changing(search_id) as session:
            update_in_state(session, search_id, "running", **values)

    def end(self, search_id: str, state: State, reason: str = "") -> None:
        """A search that runs is over."""
        self.update(search_id, state=state, reason=reason, handle="", wish="", ended_ms=now_ms())

    def unannounced(self) -> list[SearchRow]:
        """Searches that are over and whose end webhooks were not told, the first to end first."""
        query = (
            select(SearchRow)
            .where(SearchRow.state.in_(FINAL_STATES), SearchRow.ended_ms.is_not(None))
            .where(SearchRow.told_ms.is_distinct_from(SearchRow.ended_ms))
            .order_by(SearchRow.ended_ms)
        )
        with self._database.session() as session:
            return list(session.scalars(query))

    def mark_announced(self, rows: Sequence[SearchRow]) -> None:
        """Webhooks were told of these ends; later ends of the same searches count anew."""
        with self._database.session() as session:
            for row in rows:
                query = update(SearchRow).where(SearchRow.id == row.id)
                session.execute(query.values(told_ms=row.ended_ms))


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
