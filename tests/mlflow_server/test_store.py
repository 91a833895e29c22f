import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from mlflow_server import TrackingError, artifact_root, store_uri
from mlflow_server.store import why_not_a_store


def test_everything_lies_in_the_store(tmp_path):
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    assert artifact_root(tmp_path) == tmp_path.resolve() / "mlartifacts"


def test_places_are_absolute(tmp_path, monkeypatch):
    store = tmp_path / "runs"
    monkeypatch.chdir(tmp_path)
    assert store_uri(store.relative_to(tmp_path)) == store_uri(store)
    assert artifact_root(store.relative_to(tmp_path)) == artifact_root(store)


@pytest.mark.parametrize("name", ["100%", "what?"])
def test_names_that_mlflow_would_take_for_two_places_are_refused(tmp_path, name):
    with pytest.raises(TrackingError, match="may not contain"):
        store_uri(tmp_path / name)


def test_an_empty_file_is_an_empty_database(tmp_path):
    path = tmp_path / "mlflow.db"
    path.touch()
    assert why_not_a_store(path) is None


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "a #1.db"
    path.write_text("no database at all, and long enough to have a header to look at")
    assert why_not_a_store(path) == "file is not a database"
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE studies (id INTEGER)")
    assert "something else" in str(why_not_a_store(path))
    assert why_not_a_store(tmp_path) is not None


KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("CREATE TABLE experiments (content)")
connection.execute("BEGIN")
for _ in range(200):
    connection.execute("INSERT INTO experiments VALUES (randomblob(5000))")
os._exit(9)
"""


def test_a_database_whose_writer_was_killed_is_a_store(tmp_path):
    path = tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    assert why_not_a_store(path) is None
