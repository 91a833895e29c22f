"""The tables of the service's database; migrations/versions make them."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from search.storage.layout import StudyKind

State = Literal["queued", "running", "finished", "failed", "stopped"]
STATES: tuple[State, ...] = ("queued", "running", "finished", "failed", "stopped")
FINAL_STATES: tuple[State, ...] = ("finished", "failed", "stopped")
"""In which no process works on a search, or will."""


class Table(DeclarativeBase):
    """Base of all tables."""


class SearchRow(Table):
    """One search, or another study; times are milliseconds since 1970.

    id: also the name of its folder, of its Optuna study and of its MLflow experiment.
    kind: search, family or correlation.
    position: order of arrival, and of the queue.
    state: one of STATES.  wish: "stop" if it shall end early.
    handle: of the launcher, for the process that performs it; empty when there is none.
    launches: processes so far.  losses: how many of them died in a row without getting on.
    epochs: that were done when the last process began.
    progress: see search.tracking.search_state.SearchState.progress.
    frame: base cost, limits of the budget and the preflight's lines, once it has begun.
    priority: what is higher comes first in the queue.
    told_ms: the `ended_ms` of the end that webhooks were told last.
    """

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, unique=True)
    name: Mapped[str] = mapped_column(String(100), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    reason: Mapped[str] = mapped_column(String(2000), default="")
    wish: Mapped[str] = mapped_column(String(20), default="")
    owner: Mapped[str] = mapped_column(String(100), default="")
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    frame: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    handle: Mapped[str] = mapped_column(String(300), default="")
    launches: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    epochs: Mapped[int] = mapped_column(default=0)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    started_ms: Mapped[int | None] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    told_ms: Mapped[int | None] = mapped_column(BigInteger)
    kind: Mapped[StudyKind] = mapped_column(String(20), default="search", server_default="search")


class ArchitectureRow(Table):
    """A network that a search found; `outcome` is its search.trials.jobs.Outcome."""

    __tablename__ = "architectures"
    __table_args__ = (Index("ix_architectures_front", "search_id", "on_front"),)

    search_id: Mapped[str] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    origin: Mapped[str] = mapped_column(String(30))
    flops: Mapped[int] = mapped_column(BigInteger)
    params: Mapped[int] = mapped_column(BigInteger)
    validation_score: Mapped[float]
    on_front: Mapped[bool] = mapped_column(default=False)
    outcome: Mapped[dict[str, Any]] = mapped_column(JSON)


class IdempotencyKeyRow(Table):
    """An Idempotency-Key that was used, by whom and for what.

    digest: of the request's settings.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    search_id: Mapped[str] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), index=True
    )


class TokenRow(Table):
    """A token that lets somebody in, or did; times are milliseconds since 1970.

    digest: SHA-256 of the token, in hexadecimal.  owner: whom the searches belong to that it
    launches.  role: see search.service.access.tokens.ROLES.  expires_ms: None for never.
    """

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(60))
    role: Mapped[str] = mapped_column(String(20))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    revoked_ms: Mapped[int | None] = mapped_column(BigInteger)
