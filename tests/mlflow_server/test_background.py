import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

import pytest

from mlflow_server import BackgroundRecorder, MemoryRecorder, RunRecorder, TrackingError, schema
from mlflow_server.runs import EndRun, Entry, LogFile, LogMetrics
from mlflow_server.spool import Spool


@final
class TroubledRecorder(RunRecorder):
    """Writes to memory, once `gate` is open, after raising each of the given errors once.

    Metrics of step 0 raise `refusal` each time, if there is one.
    """

    def __init__(self, *errors: Exception) -> None:
        self.memory = MemoryRecorder()
        self.errors = list(errors)
        self.refusal: Exception | None = None
        self.file_trouble: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[threading.Thread] = set()
        self.batches: list[int] = []
        self.written: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.threads.add(threading.current_thread())
        self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.refusal is not None and isinstance(entry, LogMetrics) and entry.step == 0:
            raise self.refusal
        if self.file_trouble is not None and isinstance(entry, LogFile):
            raise self.file_trouble
        self.memory.write(entry)
        self.written.append(entry)

    def write_metrics(self, entries: Sequence[LogMetrics]) -> None:
        super().write_metrics(entries)
        self.batches.append(len(entries))


def log(recorder: RunRecorder, num_steps: int) -> None:
    recorder.open_run("search", kind="search", name="Search")
    for step in range(num_steps):
        recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: step}, step)


def losses(inner: TroubledRecorder) -> list[float]:
    return [value for _, value in inner.memory.read("search").metrics["train_loss"]]


def outage() -> TrackingError:
    return TrackingError("no answer\nand much more about it", is_transient=True)


def test_writes_in_order_from_one_other_thread():
    inner = TroubledRecorder()
    recorder = BackgroundRecorder(inner)
    log(recorder, 200)
    assert recorder.close() == 0
    assert recorder.problems == ()
    assert losses(inner) == list(range(200))
    assert len(inner.threads) == 1
    assert threading.current_thread() not in inner.threads


def test_the_caller_does_not_wait_for_a_store_that_hangs():
    inner = TroubledRecorder()
    inner.gate.clear()
    recorder = BackgroundRecorder(inner)
    log(recorder, 100)
    assert recorder.close(timeout_seconds=0.05) == 101
    inner.gate.set()


def test_nothing_more_is_attempted_once_the_time_to_close_is_up():
    inner = TroubledRecorder()
    inner.gate.clear()
    recorder = BackgroundRecorder(inner)
    log(recorder, 3)
    assert recorder.close(timeout_seconds=0.01) == 4
    inner.gate.set()
    (thread,) = inner.threads
    thread.join(5)
    # The entry in flight arrives, those behind it do not.
    assert inner.memory.read("search").metrics == {}


def test_an_outage_delays_and_loses_nothing():
    inner = TroubledRecorder(outage(), outage(), outage())
    recorder = BackgroundRecorder(inner, retry_seconds=0.001)
    log(recorder, 5)
    assert recorder.close() == 0
    assert losses(inner) == [0, 1, 2, 3, 4]
    assert recorder.problems == ("OpenRun of 'search' failed: no answer (3 times)",)


def test_an_outage_without_end_costs_no_more_than_the_time_to_close():
    recorder = BackgroundRecorder(
        TroubledRecorder(*[outage() for _ in range(100)]), retry_seconds=3600
    )
    log(recorder, 5)
    assert recorder.close(timeout_seconds=0.1) == 6


@pytest.mark.parametrize("error", [TrackingError("refused"), ValueError("refused"), OSError()])
def test_a_lasting_failure_costs_one_entry_and_becomes_one_line(error):
    inner = TroubledRecorder()
    inner.refusal = error
    recorder = BackgroundRecorder(inner)
    log(recorder, 3)
    assert recorder.close() == 1
    assert losses(inner) == [1, 2]
    cause = str(error) or "OSError"
    assert recorder.problems == (f"LogMetrics of 'search' failed: {cause}",)


def test_what_comes_after_closing_is_counted_and_not_raised():
    inner = TroubledRecorder()
    recorder = BackgroundRecorder(inner)
    log(recorder, 1)
    assert recorder.close() == 0
    recorder.end_run("search", "finished")
    assert recorder.close() == 1
    assert recorder.problems == ("EndRun of 'search' failed: the recorder was closed before",)
    assert inner.memory.read("search").status == "running"


def test_the_end_of_a_with_block_delivers_everything():
    inner = TroubledRecorder()
    with BackgroundRecorder(inner) as recorder:
        log(recorder, 20)
    assert len(losses(inner)) == 20


def test_entries_of_several_threads_all_arrive():
    inner = TroubledRecorder()
    recorder = BackgroundRecorder(inner)
    recorder.open_run("search", kind="search", name="Search")

    def write(first: int) -> None:
        for step in range(first, first + 50):
            recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: step}, step)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.close() == 0
    assert losses(inner) == list(range(150))


def away() -> TroubledRecorder:
    """A store that is out of reach for as long as a test takes."""
    return TroubledRecorder(*[outage() for _ in range(100)])


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "a search" / "mlflow.spool"


def test_metrics_that_pile_up_are_written_in_batches_of_each_run():
    inner = TroubledRecorder()
    inner.gate.clear()
    recorder = BackgroundRecorder(inner)
    for key in ("a", "b"):
        recorder.open_run(key, kind="trial", name=key)
    for step in range(1500):
        for key in ("a", "b"):
            metrics = {schema.METRIC_TRAIN_LOSS: step, schema.METRIC_SPARSITY: 0}
            recorder.log_metrics(key, metrics, step)
        if step == 3:
            recorder.set_tags("a", {schema.TAG_BUDGET: "x"})
    recorder.end_run("b", "finished")
    inner.gate.set()
    assert recorder.close() == 0
    assert [len(inner.memory.read(key).metrics["train_loss"]) for key in "ab"] == [1500, 1500]
    assert inner.memory.read("b").status == "finished"
    of_a = [entry for entry in inner.written if entry.key == "a"]
    steps = [entry.step if isinstance(entry, LogMetrics) else -1 for entry in of_a]
    assert steps == [-1, 0, 1, 2, 3, -1, *range(4, 1500)]
    # of a before its tags, of a after them, of b: 1,000 metrics of 500 points at the most
    assert max(inner.batches) == 500
    assert len(inner.batches) <= 1 + 3 + 3 + 3  # and the queue was taken in two parts


def test_a_batch_that_fails_is_written_entry_by_entry():
    inner = TroubledRecorder()
    inner.gate.clear()
    inner.refusal = TrackingError("refused")
    recorder = BackgroundRecorder(inner)
    log(recorder, 100)
    inner.gate.set()
    assert recorder.close() == 1
    assert losses(inner) == list(range(1, 100))


def test_a_batch_in_an_outage_is_tried_again_as_a_whole():
    inner = TroubledRecorder()
    inner.gate.clear()
    recorder = BackgroundRecorder(inner, retry_seconds=0.001)
    log(recorder, 1)
    for step in range(1, 50):
        recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: step}, step)
    while not inner.threads:
        time.sleep(0.001)
    inner.errors = [outage(), outage(), outage()]
    inner.gate.set()
    assert recorder.close() == 0
    assert losses(inner) == list(range(50))
    assert len(inner.batches) == 1


def test_pauses_grow(monkeypatch):
    pauses: list[float] = []

    def pause(self: BackgroundRecorder, seconds: float, was_closed: bool) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(BackgroundRecorder, "_pause", pause)
    inner = TroubledRecorder(*[outage() for _ in range(6)])
    recorder = BackgroundRecorder(inner, retry_seconds=1)
    log(recorder, 1)
    assert recorder.close() == 0
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_closing_ends_a_pause():
    inner = TroubledRecorder(outage())
    recorder = BackgroundRecorder(inner, retry_seconds=3600)
    log(recorder, 1)
    while not recorder.problems:
        time.sleep(0.001)
    assert recorder.close() == 0
    assert losses(inner) == [0]


def test_closing_during_an_attempt_that_fails_is_not_missed():
    inner = TroubledRecorder(outage())
    inner.gate.clear()
    recorder = BackgroundRecorder(inner, retry_seconds=3600)
    log(recorder, 1)
    while not inner.threads:
        time.sleep(0.001)
    closing = threading.Thread(target=recorder.close)
    closing.start()
    while not recorder._is_closed:
        time.sleep(0.001)
    inner.gate.set()
    closing.join(10)
    assert losses(inner) == [0]


def test_who_does_not_wait_for_the_end_of_an_outage_tries_once_more(spool):
    inner = TroubledRecorder(*[outage() for _ in range(9)])
    recorder = BackgroundRecorder(inner, spool=spool, retry_seconds=3600)
    log(recorder, 5)
    while not recorder.problems:
        time.sleep(0.001)
    closing = threading.Thread(
        target=recorder.close, args=(3600,), kwargs={"outages_pass": False}, daemon=True
    )
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert len(inner.errors) == 7
    assert any(problem.startswith("6 entries wait in") for problem in recorder.problems)

    recorder = BackgroundRecorder(TroubledRecorder(), spool=spool)
    assert recorder.close(outages_pass=False) == 0  # all that can be delivered is


def test_what_an_outage_left_is_delivered_by_the_next_recorder(spool):
    first = BackgroundRecorder(away(), spool=spool, retry_seconds=3600)
    log(first, 5)
    assert first.close(timeout_seconds=0.1) == 6
    waiting = f"6 entries wait in {spool}, to be delivered when the same search is continued"
    assert waiting in first.problems

    inner = TroubledRecorder()
    second = BackgroundRecorder(inner, spool=spool)
    second.log_metrics("search", {schema.METRIC_TRAIN_LOSS: 5}, 5)
    assert second.close() == 0
    assert second.problems == ()
    assert losses(inner) == [0, 1, 2, 3, 4, 5]
    assert not spool.exists()


def test_what_is_delivered_twice_is_there_once(spool):
    first = BackgroundRecorder(away(), spool=spool, retry_seconds=3600)
    log(first, 3)
    first.close(timeout_seconds=0.01)
    inner = TroubledRecorder()
    for _ in range(2):
        content = spool.read_bytes()
        BackgroundRecorder(inner, spool=spool).close()
        spool.write_bytes(content)  # as if it had been killed before it could mark anything
    assert losses(inner) == [0, 1, 2]


def test_a_delivered_record_leaves_no_spool(spool):
    recorder = BackgroundRecorder(TroubledRecorder(), spool=spool)
    assert not spool.parent.exists()
    log(recorder, 20)
    assert spool.exists()
    assert recorder.close() == 0
    assert not spool.exists()
    assert recorder.close() == 0


def test_what_is_refused_for_good_does_not_stay_in_the_spool(spool):
    inner = TroubledRecorder()
    inner.refusal = TrackingError("refused")
    recorder = BackgroundRecorder(inner, spool=spool)
    log(recorder, 3)
    assert recorder.close() == 1
    assert recorder.problems == ("LogMetrics of 'search' failed: refused",)
    assert not spool.exists()


def test_a_file_that_is_gone_when_the_store_is_back_becomes_a_problem(spool, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("<p>hello</p>")
    first = BackgroundRecorder(away(), spool=spool, retry_seconds=3600)
    first.open_run("search", kind="search", name="Search")
    first.log_file("search", path)
    first.end_run("search", "finished")
    assert first.close(timeout_seconds=0.01) == 3
    path.unlink()
    inner = TroubledRecorder()
    second = BackgroundRecorder(inner, spool=spool)
    assert second.close() == 1
    assert second.problems == (
        f"LogFile of 'search' failed: there is no file {path} to store with the run",
    )
    assert inner.memory.read("search").status == "finished"
    assert not spool.exists()


def test_what_was_delivered_before_a_file_is_marked_before_the_file_is_read(spool, tmp_path):
    """The process may die then, and the file may be gone when it is asked for again."""
    inner = TroubledRecorder()
    inner.gate.clear()
    path = tmp_path / "report.html"
    path.write_text("<p>hello</p>")
    recorder = BackgroundRecorder(inner, spool=spool, retry_seconds=3600)
    log(recorder, 3)
    recorder.log_file("search", path)
    recorder.end_run("search", "finished")
    inner.file_trouble = outage()
    inner.gate.set()
    while not recorder.problems:
        time.sleep(0.001)
    copy = tmp_path / "as a killed process leaves it"
    copy.write_bytes(spool.read_bytes())
    left = Spool(copy)
    assert [type(entry) for entry, _ in left.left()] == [LogFile, EndRun]
    left.close(is_empty=True)
    inner.file_trouble = None
    assert recorder.close() == 0


def test_a_spool_without_a_place_costs_one_line_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("in the way")
    inner = TroubledRecorder()
    recorder = BackgroundRecorder(inner, spool=tmp_path / "file" / "mlflow.spool")
    log(recorder, 3)
    assert recorder.close() == 0
    (line,) = recorder.problems
    assert "entries are in memory only" in line
    assert line.endswith("(4 times)")
    assert losses(inner) == [0, 1, 2]


def test_lines_of_a_spool_that_make_no_sense_are_counted(spool):
    spool.parent.mkdir()
    spool.write_text("{}\nnonsense\n")
    recorder = BackgroundRecorder(TroubledRecorder(), spool=spool)
    assert recorder.problems == (f"{spool}: 2 lines could not be read",)
    recorder.close()


def test_writing_costs_the_caller_no_more_than_a_line(spool):
    """A quarter of a millisecond of this thread, where a call to MLflow takes seven."""
    inner = TroubledRecorder()
    inner.gate.clear()
    recorder = BackgroundRecorder(inner, spool=spool)
    started = time.thread_time()
    log(recorder, 4000)
    assert time.thread_time() - started < 1
    inner.gate.set()
    assert recorder.close() == 0
