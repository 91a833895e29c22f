"""Where a store directory keeps its runs, shared by recording and by serving.

<store>/mlflow.db       every run, as a SQLite database
<store>/mlartifacts/    the runs' files
<store>/mlflow.lock     held while the database is created
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from mlflow_server.errors import TrackingError

SQLITE_PREFIX = "sqlite:///"
PROXIED = "mlflow-artifacts"
"""Scheme of the URIs of files that MLflow reaches through a server."""


def database_path(store: Path) -> Path:
    """The SQLite file of a store, as an absolute path; it need not exist."""
    return store.resolve() / "mlflow.db"


def store_uri(store: Path) -> str:
    """The MLflow tracking URI of a store; TrackingError as for `database_uri`."""
    return database_uri(database_path(store))


def database_uri(database: Path) -> str:
    """The MLflow tracking URI of a SQLite file at an absolute path.

    Raises TrackingError for a path with `?` or `%`: MLflow creates the folder under the
    path as written, SQLAlchemy opens the database under the path as a URL would mean it.
    """
    if "?" in str(database) or "%" in str(database):
        raise TrackingError(f"the path of a store may not contain '?' or '%', got {database}")
    return f"{SQLITE_PREFIX}{database}"


def artifact_root(store: Path) -> Path:
    """The folder of a store that holds the files of its runs, as an absolute path."""
    return store.resolve() / "mlartifacts"


def local_folder(artifact_uri: str, root: Path) -> Path | None:
    """Where a server with this artifact root keeps these files; None for files elsewhere.

    MLflow reaches `mlflow-artifacts:/…` only through a server, which maps it to a path below
    its root. With the store at hand the same mapping needs no server.
    """
    uri = urlsplit(artifact_uri)
    return root / uri.path.lstrip("/") if uri.scheme == PROXIED and not uri.netloc else None


def why_not_a_store(database: Path) -> str | None:
    """What keeps an existing file from being MLflow's database; None if nothing does.

    MLflow itself would try such a file ten times, for 100 seconds, before it gave up. An
    empty file passes: to SQLite it is an empty database.
    """
    # For writing: what a killed process left undone has to be undone before anyone can read.
    uri = f"file:{quote(str(database))}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
    except sqlite3.Error as error:
        return str(error)
    if tables and "experiments" not in tables:
        return "it is a database of something else, without a table 'experiments'"
    return None


@contextmanager
def creating(store: Path) -> Iterator[None]:
    """Hold the store for the process that creates its database; others wait here.

    Two processes that run MLflow's migrations on one new file at once fail each other.
    """
    with (store / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
