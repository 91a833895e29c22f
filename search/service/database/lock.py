"""The lock that keeps two services from working on one database."""

from __future__ import annotations

import contextlib
import fcntl
from typing import IO

import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import ServiceError

LOCK_KEY = 0x4573_7061_6C69_6572
"""Of PostgreSQL's advisory lock: "Espalier"."""


class DatabaseLock:
    """Keeps every other service away from a database, until it is closed or dies.

    An advisory lock in PostgreSQL, which a connection holds; beside SQLite's file, a lock on one.
    """

    def __init__(self, engine: Engine) -> None:
        """ServiceError if another service uses the database."""
        self._engine = engine
        self._connection: Connection | None = None
        self._stream: IO[bytes] | None = None
        if engine.dialect.name == "sqlite":
            self._lock_file()
        else:
            self.ensure()

    def ensure(self) -> None:
        """Hold it, again if the server was away; ServiceError if another service has it."""
        if self._stream is not None:
            return
        try:
            if self._connection is not None:
                self._connection.execute(sqlalchemy.text("SELECT 1"))
                return
        except SQLAlchemyError:
            self._drop()
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        query = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
        if not connection.scalar(query, {"key": LOCK_KEY}):
            connection.close()
            raise self._refusal()
        self._connection = connection

    def close(self) -> None:
        """Let others in, at once: a server ends sessions, and their locks, when it comes to it."""
        if self._connection is not None:
            query = sqlalchemy.text("SELECT pg_advisory_unlock(:key)")
            with contextlib.suppress(SQLAlchemyError):  # the session, and the lock, are lost
                self._connection.execute(query, {"key": LOCK_KEY})
        self._drop()
        if self._stream is not None:
            self._stream.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # a pool would keep the session, and the lock with it
            connection.close()

    def _lock_file(self) -> None:
        file = f"{self._engine.url.database}.lock"
        try:
            stream = open(file, "ab")  # noqa: SIM115 - kept until it is closed
        except OSError as error:
            raise ServiceError(f"cannot lock the database: {file}: {error.strerror}") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise self._refusal() from None
        self._stream = stream

    def _refusal(self) -> ServiceError:
        place = self._engine.url.render_as_string(hide_password=True)
        return ServiceError(f"another service uses the database {place}: each has its own")
