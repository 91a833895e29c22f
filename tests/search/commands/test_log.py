"""`espalier log` on folders: what a service's processes of a search printed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from samples import espalier

from search.storage.folder_lock import FolderLock
from search.storage.layout import CONFIG_FILE, LOG_FILE
from search.tracking import process_log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a search."""
    found = tmp_path / "runs" / "a"
    found.mkdir(parents=True)
    (found / CONFIG_FILE).write_text("{}")
    return found


def test_it_prints_all_of_it(folder: Path) -> None:
    (folder / LOG_FILE).write_text("one \u2264\nno end")
    done = espalier("log", "a", "--runs", folder.parent)
    assert (done.status, done.out, done.err) == (0, "one \u2264\nno end", "")


@pytest.mark.parametrize("flags", [[], ["--follow"]], ids=str)
def test_what_a_terminal_performs_has_none(folder: Path, flags: list[str]) -> None:
    """Told at once, also while it is at work."""
    with FolderLock(folder, "search") as lock:
        lock.acquire()
        done = espalier("log", "a", "--runs", folder.parent, *flags)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("espalier: a has no log: a service keeps one")


def test_a_search_that_is_none_is_told(tmp_path: Path) -> None:
    done = espalier("log", "nope", "--runs", tmp_path)
    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_it_follows_until_the_process_has_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_log, "_POLL_SECONDS", 0.01)
    log = folder / LOG_FILE
    log.write_text("one\ntw")
    lock = FolderLock(folder, "search")
    lock.acquire()

    def work() -> None:
        with log.open("a") as stream:
            stream.write("o\nthree")
        lock.close()

    timer = threading.Timer(0.2, work)
    timer.start()
    done = espalier("log", "a", "--follow", "--runs", folder.parent)
    timer.join()
    assert (done.status, done.out) == (0, "one\ntwo\nthree")
