"""Opening the service's database: SQLite or PostgreSQL, at the schema of this version."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import ServiceError
from search.service.database.lock import LOCK_KEY
from search.service.service_config import ServiceConfig

_MIGRATIONS = Path(__file__).parent / "migrations"
DATABASE_FILE = "service.db"
"""In the folder of all searches, unless the records are in a database elsewhere."""

_OF_POSTGRESQL = {
    "connect_timeout": 5,
    # a machine that is gone is given up after 15 s, not after the hours that systems wait
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
"""Of libpq; seconds, but for the last."""

_BUSY_SECONDS = 10
_SCHEMA_LOCK_KEY = LOCK_KEY + 1
"""Of the advisory lock that is held while tables are made or changed."""


def open_service_database(config: ServiceConfig, *, may_be_new: bool) -> Engine:
    """The database of the service that `config` describes; ServiceError if it cannot be used.

    may_be_new: make the folder's own file, and the folder, where they are not.
    """
    if config.database_url:
        return open_database(config.database_url)
    file = config.folder / DATABASE_FILE
    if not may_be_new and not has_database(config):
        raise ServiceError(f"no service has its records in {config.folder}: name its --runs")
    _make_private(file)
    return open_database(f"sqlite:///{file}")


def has_database(config: ServiceConfig) -> bool:
    """Whether there is a database to open: that of a server is there, a file may not be yet."""
    return bool(config.database_url) or (config.folder / DATABASE_FILE).exists()


def _make_private(file: Path) -> None:
    """Let its owner alone read it, and what SQLite puts beside it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        file.chmod(0o600)
    except OSError as error:
        raise ServiceError(f"cannot write {file}: {error.strerror}") from error


def open_database(url: str) -> Engine:
    """The database at `url`, made or brought to this version's schema.

    url: sqlite:///FILE or postgresql://USER@HOST/NAME.  Raises ServiceError, in one line and
    without a password, if it cannot be reached or was made by a newer version.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except SQLAlchemyError:
        raise ServiceError(
            "a database is sqlite:///FILE or postgresql://USER@HOST/NAME, got another form"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    try:
        engine = sqlalchemy.create_engine(parsed, **_options(parsed.get_backend_name()))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        try:
            with engine.begin() as connection:
                _migrate(connection)
        except BaseException:
            engine.dispose()
            raise
    except ImportError as error:
        raise ServiceError(
            f"a {parsed.get_backend_name()} database needs {error.name}, which is not installed: "
            "pip install psycopg2-binary"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        place = parsed.render_as_string(hide_password=True)
        raise ServiceError(f"the database {place} cannot be used: {cause}") from None
    return engine


def _options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": _BUSY_SECONDS}}
    if backend == "postgresql":
        return {"connect_args": _OF_POSTGRESQL, "pool_pre_ping": True}
    raise ValueError("it is neither SQLite nor PostgreSQL")


def _prepare_sqlite(connection: Any, _: object) -> None:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:  # SQLite does not wait for who else makes a new file
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _migrate(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    newest = script.get_current_head()
    if _schema(connection) == newest:
        return
    _lock_schema(connection)
    current = _schema(connection)
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise ServiceError(
            f"the service's database has schema {current}, this Espalier knows up to {newest}: "
            "use the version that made it"
        )
    command.upgrade(config, "head")


def _schema(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _lock_schema(connection: Connection) -> None:
    """Begin a transaction that holds all tables to its end, and off those who would migrate too."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python begins none for CREATE TABLE
    else:
        query = sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)")
        connection.execute(query, {"key": _SCHEMA_LOCK_KEY})
