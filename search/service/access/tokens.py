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
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from pruning.errors import ServiceError
from search.service.database.tables import TokenRow
from search.service.database.transactions import now_ms

Role = Literal["reader", "writer", "admin"]
ROLES: tuple[Role, ...] = ("reader", "writer", "admin")
"""What a token is good for: looking; also launching, and stopping, continuing and removing what
one has launched oneself; all that with everybody's searches."""

PREFIX = "espalier_"
"""Of every token, before 43 letters, digits, - and _."""

_NAME = re.compile(r"[\w.@-]{1,60}")
_DAY_MS = 86_400_000
_MAX_DAYS = 36_500
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
        """How many are valid."""
        return sum(not is_inactive(row) for row in self._rows.values())

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for one that is unknown, was revoked or has expired."""
        row = self._rows.get(_hash(token))
        if row is None or is_inactive(row):
            return None
        return Caller(row.owner, _role(row), row.digest)

    def is_still_valid(self, caller: Caller) -> bool:
        """Whether the token of this caller is neither revoked nor expired."""
        row = self._rows.get(caller.digest)
        return row is not None and not is_inactive(row)

    def refresh(self) -> None:
        """Read them again. What cannot be read cannot have been changed meanwhile either."""
        with Session(self._engine, expire_on_commit=False) as session:
            self._rows = {row.digest: row for row in session.scalars(select(TokenRow))}

    async def refresh_forever(self) -> None:
        """Read them twice a second, until it is cancelled."""
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
    for text in (name, owner):
        if not _NAME.fullmatch(text):
            raise ServiceError(f"a name has up to 60 letters, digits and . _ @ -, got {text!r}")
    if days is not None and not 0 < days <= _MAX_DAYS:
        raise ServiceError(f"a token expires after days, above 0 and at most {_MAX_DAYS:,}")
    token = PREFIX + secrets.token_urlsafe(32)
    created_ms = now_ms()
    row = TokenRow(
        name=name,
        digest=_hash(token),
        owner=owner,
        role=role,
        created_ms=created_ms,
        expires_ms=None if days is None else created_ms + int(days * _DAY_MS),
        revoked_ms=None,
    )
    try:
        with Session(engine) as session, session.begin():
            session.add(row)
    except IntegrityError:
        raise ServiceError(f"there is or was a token called {name}: choose another name") from None
    return token


def all_tokens(engine: Engine) -> list[TokenRow]:
    """All there ever were, the oldest first."""
    with Session(engine, expire_on_commit=False) as session:
        return list(session.scalars(select(TokenRow).order_by(TokenRow.created_ms)))


def revoke(engine: Engine, name: str) -> None:
    """Make it invalid from now on; ServiceError if there is none."""
    with Session(engine) as session, session.begin():
        row = session.get(TokenRow, name)
        if row is None or row.revoked_ms is not None:
            raise ServiceError(f"there is no token called {name} (`espalier token list`)")
        row.revoked_ms = now_ms()


def are_required(engine: Engine) -> bool:
    """Whether a service on this database asks for tokens: it does once there ever was one."""
    with Session(engine) as session:
        return bool(session.scalar(select(func.count()).select_from(TokenRow)))


def is_inactive(row: TokenRow) -> bool:
    """Whether it was revoked or has expired."""
    return row.revoked_ms is not None or (row.expires_ms is not None and row.expires_ms <= now_ms())


def _role(row: TokenRow) -> Role:
    """That of the row; reader for one that only a newer version knows."""
    return next((role for role in ROLES if role == row.role), "reader")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
