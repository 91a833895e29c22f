"""Who may use a service: bearer tokens, of which only hashes are kept, in its database.

A token is 32 random bytes, so that its hash needs no salt and no slow function. A service reads
them twice a second: what is made, revoked or expires counts within that time, and a request waits
for no database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from pruning.errors import ServiceError
from search.service.database.tables import TokenRow

Role = Literal["reader", "writer", "admin"]
ROLES: tuple[Role, ...] = ("reader", "writer", "admin")
"""What a token is good for: looking; also launching, and stopping, continuing and removing what
one has launched oneself; all that with everybody's searches."""

PREFIX = "espalier_"
"""Of every token, before 43 letters, digits, - and _."""

_NAME = re.compile(r"[\w.@-]{1,60}")
_DAY_MS = 86_400_000
_LATEST_DAYS = 36_500
_REFRESH_SECONDS = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who makes a request; without tokens everyone is the same one.

    name: whom searches belong to.  digest: of the token; empty without one.
    """

    name: str
    role: Role
    digest: str = ""

    def may_change(self, owner: str) -> bool:
        """Whether a search of that owner is this one's to stop, continue and remove."""
        return self.role == "admin" or (self.role == "writer" and owner == self.name)


EVERYONE = Caller("", "admin")


class Tokens:
    """Those in the database, as they were read last; read once on construction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: dict[str, TokenRow] = {}
        self.refresh()

    def __len__(self) -> int:
        """How many let somebody in."""
        return sum(not is_over(row) for row in self._rows.values())

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for a wrong one, one that was revoked or has expired."""
        row = self._rows.get(_hash(token))
        if row is None or is_over(row):
            return None
        return Caller(row.owner, _role(row), row.digest)

    def still_lets_in(self, caller: Caller) -> bool:
        """Whether the token that let this one in would do so again."""
        row = self._rows.get(caller.digest)
        return row is not None and not is_over(row)

    def refresh(self) -> None:
        """Read them again. What cannot be read cannot have been changed meanwhile either."""
        with Session(self._engine, expire_on_commit=False) as session:
            self._rows = {row.digest: row for row in session.scalars(select(TokenRow))}

    async def follow(self) -> None:
        """Read them again and again."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except SQLAlchemyError as error:
                _log.warning("tokens cannot be read: %s", str(error).splitlines()[0])


def create(
    engine: Engine, name: str, role: Role, *, owner: str = "", days: float | None = None
) -> str:
    """A new token called `name`, which is shown once; its hash is kept.

    owner: whom the searches belong to that it launches; by default its name.  days: after which
    it expires; None for never.  Raises ServiceError for a name that is none, or is in use.
    """
    owner = owner or name
    for word in (name, owner):
        if not _NAME.fullmatch(word):
            raise ServiceError(f"a name has up to 60 letters, digits and . _ @ -, got {word!r}")
    if days is not None and not 0 < days <= _LATEST_DAYS:
        raise ServiceError(f"a token expires after days, above 0 and at most {_LATEST_DAYS:,}")
    token = PREFIX + secrets.token_urlsafe(32)
    now = _now_ms()
    row = TokenRow(
        name=name,
        digest=_hash(token),
        owner=owner,
        role=role,
        created_ms=now,
        expires_ms=None if days is None else now + int(days * _DAY_MS),
        revoked_ms=None,
    )
    try:
        with Session(engine) as session, session.begin():
            session.add(row)
    except IntegrityError:
        raise ServiceError(f"there is or was a token called {name}: choose another name") from None
    return token


def listed(engine: Engine) -> list[TokenRow]:
    """All there ever were, the oldest first."""
    with Session(engine, expire_on_commit=False) as session:
        return list(session.scalars(select(TokenRow).order_by(TokenRow.created_ms)))


def revoke(engine: Engine, name: str) -> None:
    """Let it open nothing from now on; ServiceError if there is none."""
    with Session(engine) as session, session.begin():
        row = session.get(TokenRow, name)
        if row is None or row.revoked_ms is not None:
            raise ServiceError(f"there is no token called {name} (`espalier token list`)")
        row.revoked_ms = _now_ms()


def are_asked_for(engine: Engine) -> bool:
    """Whether a service on this database asks for tokens: it does once there ever was one."""
    with Session(engine) as session:
        return bool(session.scalar(select(func.count()).select_from(TokenRow)))


def is_over(row: TokenRow) -> bool:
    """Whether it was revoked or has expired."""
    return row.revoked_ms is not None or (
        row.expires_ms is not None and row.expires_ms <= _now_ms()
    )


def _role(row: TokenRow) -> Role:
    """The least one, for what a newer version may have written."""
    return next((role for role in ROLES if role == row.role), "reader")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
