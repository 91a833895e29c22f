"""`espalier watch` on folders: what another process does is shown as if it were this one's."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import pytest
from samples import FinishedSearch, espalier

from search.commands import runs_folder, watch_display
from search.storage.folder_lock import FolderLock

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TIME_LEFT = re.compile(r"(about \S+ (s|min|h) left)?$")
PAGE = "docs/how-to/resuming.md"
EVERY_MINUTE = re.compile(r"[\d,]+ of [\d,]+ epochs")


def without_times(text: str) -> list[str]:
    """Times left differ in what the machine does between an event and its line.

    So does when a minute is over, after which a line says how far the search is.
    """
    lines = [line for line in text.splitlines() if not EVERY_MINUTE.match(line)]
    return [TIME_LEFT.sub("", line) for line in lines]


@pytest.fixture
def copy(finished_search: FinishedSearch, tmp_path: Path) -> Path:
    """The folder of the finished search, without the record of it, somewhere else."""
    folder = tmp_path / "moved" / "tiny"
    shutil.copytree(finished_search.folder, folder)
    return folder


def test_it_prints_what_the_search_printed(finished_search: FinishedSearch, at_desk):
    """To the letter, closing lines included, from the same folder."""
    with at_desk():
        done = espalier("watch", "tiny", "--runs=runs")
    assert (done.status, done.err) == (0, "")
    assert without_times(done.out) == without_times(finished_search.completed.out)


def test_a_search_that_goes_on_is_followed_to_its_end(
    copy: Path, finished_search: FinishedSearch, monkeypatch: pytest.MonkeyPatch
):
    """Its lines arrive in two halves, the second one torn at first, while it is locked."""
    monkeypatch.setattr(runs_folder, "_POLL_SECONDS", 0.01)
    event_log, results = copy / "events.jsonl", copy / "results.json"
    whole, found = event_log.read_bytes(), results.read_bytes()
    event_log.write_bytes(whole[: len(whole) // 2])
    results.unlink()
    lock = FolderLock(copy, "search")
    lock.acquire()
    shown = threading.Event()
    take = watch_display.WatchDisplay.take

    def taken(self: object, event: dict[str, object]) -> None:
        take(self, event)
        shown.set()

    monkeypatch.setattr(watch_display.WatchDisplay, "take", taken)

    def work() -> None:
        assert shown.wait(30)
        event_log.write_bytes(whole)
        results.write_bytes(found)
        lock.close()

    worker = threading.Thread(target=work)
    worker.start()
    done = espalier("watch", copy)
    worker.join()
    assert (done.status, done.err) == (0, "")
    expected = without_times(finished_search.completed.out)
    lines = without_times(done.out)
    end = expected.index(next(line for line in expected if line.startswith("Stored in")))
    assert lines[:end] == expected[:end]
    assert lines[end] == f"Stored in {copy}"
    assert f"espalier ui tiny --runs {copy.parent}" in lines[end + 1]


def test_ctrl_c_leaves_the_search_alone(copy: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_display.WatchDisplay, "take", interrupted)
    done = espalier("watch", copy)
    assert done.status == 130
    where = f"--runs {copy.parent}"
    assert done.err.strip() == (
        f"No longer watching; the search goes on. Watch it with  espalier watch tiny {where}  "
        f"or end it with  espalier stop tiny {where}"
    )


def cut(folder: Path, end: str = "") -> None:
    """As if its process had been killed, or had ended so."""
    (folder / "results.json").unlink()
    lines = (folder / "events.jsonl").read_text().splitlines()[:-1]
    (folder / "events.jsonl").write_text("\n".join([*lines, *filter(None, [end])]) + "\n")


def test_a_search_that_nobody_performs_is_told(copy: Path):
    cut(copy)
    done = espalier("watch", copy)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "espalier: tiny is not over, and nobody is at work on it: go on with espalier resume tiny "
        f"--runs {copy.parent} ({PAGE})\n"
    )


def test_a_failed_search_says_why(copy: Path):
    cut(copy, '{"event":"failed","time_ms":0,"reason":"all 3 trials\\nfailed"}')
    done = espalier("watch", copy)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"espalier: tiny has failed: all 3 trials failed ({PAGE})\n"


def test_what_is_no_search_is_told(copy: Path):
    done = espalier("watch", "nope", "--runs", copy.parent)
    assert done.status == 2
    assert done.err.endswith(f"holds no search: there are tiny ({PAGE})\n")
