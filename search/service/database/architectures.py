"""The networks that searches have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update

from search.service.database.tables import ArchitectureRow
from search.service.database.transactions import Database, page_of
from search.service.problem_details import ProblemError

_BASE = "base"
"""Origin of the base network of a search."""

_BY_FLOPS = (ArchitectureRow.origin != _BASE, ArchitectureRow.flops, ArchitectureRow.key)
"""The base network first, which the others are held against."""


class Architectures:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, search_id: str, key: str) -> ArchitectureRow:
        """One of a search; ProblemError 404 if there is none."""
        with self._database.session() as session:
            row = session.get(ArchitectureRow, (search_id, key))
        if row is None:
            raise ProblemError(404, f"there is no architecture {key!r} of a search {search_id!r}")
        return row

    def base(self, search_id: str) -> ArchitectureRow | None:
        """The base network of a search, once it is trained."""
        of_search = ArchitectureRow.search_id == search_id
        query = select(ArchitectureRow).where(of_search, ArchitectureRow.origin == _BASE)
        with self._database.session() as session:
            return session.scalars(query).first()

    def page(self, search_id: str, *, limit: int, offset: int) -> tuple[list[ArchitectureRow], int]:
        """Those of a search, the base first, by FLOPs, and how many there are in all."""
        query = select(ArchitectureRow).where(ArchitectureRow.search_id == search_id)
        with self._database.session() as session:
            return page_of(session, query.order_by(*_BY_FLOPS), limit, offset)

    def within(
        self, search_id: str, *, bounds: Mapping[str, float], on_front: bool
    ) -> list[ArchitectureRow]:
        """Those within bounds on flops and params, by FLOPs."""
        query = select(ArchitectureRow).where(ArchitectureRow.search_id == search_id)
        if on_front:
            query = query.where(ArchitectureRow.on_front.is_(True))
        for name, value in bounds.items():
            query = query.where(getattr(ArchitectureRow, name) <= value)
        with self._database.session() as session:
            return list(session.scalars(query.order_by(*_BY_FLOPS)))

    def put(self, search_id: str, rows: Sequence[ArchitectureRow]) -> None:
        """Add architectures of a search, or replace those of the same key."""
        with self._database.changing(search_id) as session:
            for row in rows:
                session.merge(row)

    def mark_front(self, search_id: str, joined: Sequence[str], left: Sequence[str]) -> None:
        """Architectures, by their keys, that came onto the front, and that left it."""
        with self._database.changing(search_id) as session:
            for keys, is_on_front in ((joined, True), (left, False)):
                if keys:
                    session.execute(
                        update(ArchitectureRow)
                        .where(ArchitectureRow.search_id == search_id)
                        .where(ArchitectureRow.key.in_(keys))
                        .values(on_front=is_on_front)
                    )
