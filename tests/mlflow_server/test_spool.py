import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_server import TrackingError, schema
from mlflow_server import spool as spool_module
from mlflow_server.runs import EndRun, Entry, LogFile, LogMetrics, OpenRun, SetTags
from mlflow_server.spool import Spool

ENTRIES: list[Entry] = [
    OpenRun("trial/1", "trial", "Trial 1", "search", {"epochs": "3"}, {}, "two\nlines λ", 1),
    LogMetrics("trial/1", {"train_loss": 0.1, "sparsity": math.inf}, 7, 1_700_000_000_000),
    SetTags("trial/1", {schema.TAG_BUDGET: "flops ≤ 25 %"}),
    LogFile("trial/1", Path(__file__), "code"),
    EndRun("trial/1", "killed", "stopped", 12),
]


def point(step: int) -> LogMetrics:
    return LogMetrics("search", {"train_loss": float(step)}, step, step)


def left(path: Path) -> list[Entry]:
    spool = Spool(path)
    entries = [entry for entry, _ in spool.left()]
    spool.close(is_empty=False)
    return entries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a search" / "mlflow.spool"


def write(path: Path, entries: list[Entry], done: int = 0) -> None:
    """Leave these entries in the spool, the first `done` of them marked."""
    spool = Spool(path)
    ends = [spool.append(entry) for entry in entries]
    if done:
        spool.mark(ends[done - 1])
    spool.close(is_empty=False)


def test_every_entry_comes_back_as_it_was(path):
    write(path, ENTRIES)
    assert left(path) == ENTRIES


def test_nan_comes_back(path):
    write(path, [LogMetrics("s", {"train_loss": math.nan}, 0, 0)])
    (entry,) = left(path)
    assert isinstance(entry, LogMetrics)
    assert math.isnan(entry.metrics["train_loss"])


def test_a_file_is_found_from_another_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    write(path, [LogFile("search", Path(Path(__file__).name), None)])
    monkeypatch.chdir(tmp_path)
    assert left(path) == [LogFile("search", Path(__file__), None)]


def test_nothing_is_made_before_there_is_something_to_keep(path):
    Spool(path).close(is_empty=True)
    assert not path.parent.exists()


def test_what_is_marked_is_not_left(path):
    write(path, [point(step) for step in range(5)], done=3)
    assert left(path) == [point(3), point(4)]


def test_a_mark_holds_for_what_stands_before_it_only(path):
    spool = Spool(path)
    first = spool.append(point(0))
    spool.append(point(1))
    spool.mark(first)
    spool.append(point(2))
    spool.close(is_empty=False)
    assert left(path) == [point(1), point(2)]


def test_a_later_process_goes_on_in_the_same_file(path):
    write(path, [point(0), point(1)], done=1)
    write(path, [point(2)])
    assert left(path) == [point(1), point(2)]


def test_an_empty_spool_is_removed(path):
    spool = Spool(path)
    spool.mark(spool.append(point(0)))
    spool.close(is_empty=True)
    assert not path.exists()


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_line_that_was_never_finished_is_cut_off(path, kept):
    write(path, [point(0)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    write(path, [point(1)])
    assert left(path) == [point(0), point(1)]


@pytest.mark.parametrize("line", ["\x00\x00", "[]", '"text"', "7", '{"entry": "Unknown"}', "null"])
def test_lines_that_make_no_sense_cost_only_themselves(path, line):
    write(path, [point(0)])
    with path.open("a") as file:
        file.write(f"{line}\n")
    write(path, [point(1)])
    spool = Spool(path)
    assert [entry for entry, _ in spool.left()] == [point(0), point(1)]
    assert spool.num_unreadable == 1
    spool.close(is_empty=True)


def test_a_spool_in_use_is_refused_until_it_is_closed(path):
    spool = Spool(path)
    spool.append(point(0))
    with pytest.raises(TrackingError, match="in use: another process records the same search"):
        Spool(path)
    late = Spool(path.with_name("other"))
    late.path = path  # made before the first process wrote anything
    with pytest.raises(TrackingError, match="in use"):
        late.append(point(1))
    spool.close(is_empty=False)
    assert left(path) == [point(0)]


def test_a_spool_that_cannot_be_read_is_one_line(path):
    path.mkdir(parents=True)
    with pytest.raises(TrackingError, match="cannot read the spool"):
        Spool(path)


@contextmanager
def room_for(num_bytes: int):
    """A disk that is full beyond this size of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_whole_lines(path):
    spool = Spool(path)
    spool.append(point(0))
    with room_for(path.stat().st_size + 10), pytest.raises(OSError, match=r"room|large"):
        spool.append(point(1))
    spool.append(point(2))
    spool.close(is_empty=False)
    assert left(path) == [point(0), point(2)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


KILLED = """
import os, signal, sys
from pathlib import Path
from mlflow_server.runs import LogMetrics
from mlflow_server.spool import Spool

spool = Spool(Path(sys.argv[1]))
for step in range(1000):
    end = spool.append(LogMetrics("search", {"train_loss": float(step)}, step, step))
    if step == 299:
        spool.mark(end)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_is_there(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert left(path) == [point(step) for step in range(300, 1000)]


def test_sync_needs_no_file(path):
    spool = Spool(path)
    spool.sync()
    spool.mark(1)
    assert not os.path.exists(path)


def test_what_is_done_with_is_dropped_while_in_use(path, monkeypatch):
    """The file stays as small as what waits; offsets that were given stay valid, marks too."""
    monkeypatch.setattr(spool_module, "_COMPACT_BYTES", 4000)
    spool = Spool(path)
    ends: list[int] = []
    sizes = []
    for step in range(1000):
        ends.append(spool.append(point(step)))
        if step >= 10 and step % 3 == 0:
            spool.mark(ends[step - 10])
        sizes.append(path.stat().st_size)
    assert max(sizes[500:]) <= max(sizes[:500]) < 10_000
    with pytest.raises(TrackingError, match="in use"):
        Spool(path)
    spool.close(is_empty=False)
    assert left(path) == [point(step) for step in range(990, 1000)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_long_outage_rewrites_nothing(path, monkeypatch):
    """What waits is never copied for the little that is done with."""
    monkeypatch.setattr(spool_module, "_COMPACT_BYTES", 100)
    spool = Spool(path)
    ends = [spool.append(point(step)) for step in range(200)]
    before = path.stat().st_ino
    spool.mark(ends[20])
    assert path.stat().st_ino == before
    spool.close(is_empty=False)
    assert left(path) == [point(step) for step in range(21, 200)]
