"""The lock of a search's folder, against another process that really holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from samples import Workers, another_process, quick_config

import search
from mlflow_server import TrackingError
from pruning.errors import DataError, SearchStateError
from search.config.data_config import DataConfig
from search.data.data import Data
from search.storage.folder_lock import FolderLock, lock_holder
from search.studies import setup
from search.studies.search_study import settings_file
from search.studies.setup import run_recorder
from search.tasks.classification import Classification

HOLD = """
import sys
from pathlib import Path
from search.storage.folder_lock import FolderLock

with FolderLock(Path(sys.argv[1]), "search") as lock:
    lock.acquire()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that works on the search."""
    with another_process(HOLD, folder) as process:
        yield process


def acquire(folder: Path) -> FolderLock:
    lock = FolderLock(folder, "search")
    lock.acquire()
    return lock


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_is_refused_and_told_of_the_first(folder: Path, holder: subprocess.Popen):
    (folder / "study.journal").write_text("precious")
    before = contents(folder)
    expected = rf"the search in {folder} is being worked on by process {holder.pid}: wait for it"
    for _ in range(2):
        with pytest.raises(SearchStateError, match=expected):
            acquire(folder)
    assert contents(folder) == before


def test_a_process_that_was_killed_holds_nothing(folder: Path, holder: subprocess.Popen):
    holder.kill()
    assert holder.wait() < 0
    acquire(folder).close()


def test_it_is_let_go_at_the_end_of_the_block_also_after_an_error(folder: Path):
    def stopped() -> None:
        with FolderLock(folder, "search") as lock:
            lock.acquire()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with FolderLock(folder, "search") as lock:
        lock.acquire()
        lock.acquire()  # one's own is no obstacle
        with pytest.raises(SearchStateError):
            acquire(folder)
    acquire(folder).close()


def test_where_there_is_no_folder_nothing_is_made_before_it_is_time(tmp_path: Path):
    folder = tmp_path / "not-yet"
    with FolderLock(folder, "search") as lock:
        lock.acquire(only_if_there=True)
        assert not folder.exists()
        folder.mkdir()
        lock.acquire()
        with pytest.raises(SearchStateError):
            acquire(folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_running_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    acquire(folder).close()

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    for ask in (acquire, lock_holder):
        with pytest.raises(SearchStateError, match=f"cannot be locked .*{os.strerror(number)}"):
            ask(folder)


def test_a_folder_that_cannot_be_written_is_said_to_be_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(SearchStateError, match=r"cannot be locked .*Permission denied"):
        acquire(folder)


def test_a_search_that_is_being_worked_on_is_refused(
    tmp_path: Path, folder: Path, holder: subprocess.Popen, workers: Workers
):
    """Before anything is written; once the other process is dead, the same command goes on."""
    config = quick_config(tmp_path, trials=1, ladder=(1.0,))
    assert config.directory == folder
    settings_file(config).write()
    before = contents(folder)
    with pytest.raises(SearchStateError, match=f"is being worked on by process {holder.pid}"):
        search.run(config)
    assert contents(folder) == before
    assert workers.performed == []
    holder.kill()
    holder.wait()
    assert search.run(config).front


def test_a_server_out_of_reach_is_told_with_what_else_there_is(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"no MLflow server .* \(--mlflow-url '' records in"):
        run_recorder(str(tmp_path), "s", "http://127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []


# ---- memory


def test_data_that_fit_nowhere_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    """Once here and once for the workers."""

    def read() -> Data:
        return setup.read_data(DataConfig(), Classification(), 0, Console(quiet=True))

    num_bytes = read().num_bytes
    monkeypatch.setattr(setup, "usable_memory", lambda: 2 * num_bytes)
    read()
    monkeypatch.setattr(setup, "usable_memory", lambda: 2 * num_bytes - 1)
    with pytest.raises(
        DataError, match=r"^digits takes 0\.0 GB of memory, and as much again"
    ) as error:
        read()
    assert "\n" not in str(error.value)
