import threading
import time
from typing import final

import pytest

from mlflow_server import BackgroundRecorder, MemoryRecorder, RunRecorder, TrackingError, schema
from mlflow_server.runs import Entry


@final
class TroubledRecorder(RunRecorder):
    """Writes to memory, after raising each of the given errors once and once `gate` is open."""

    def __init__(self, *errors: Exception) -> None:
        self.memory = MemoryRecorder()
        self.errors = list(errors)
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[threading.Thread] = set()

    def write(self, entry: Entry) -> None:
        self.threads.add(threading.current_thread())
        self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.memory.write(entry)


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
    started = time.monotonic()
    log(recorder, 100)
    assert recorder.close(timeout_seconds=0.05) == 101
    assert time.monotonic() - started < 5
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
    recorder = BackgroundRecorder(inner)
    recorder.open_run("search", kind="search", name="Search")
    while not inner.memory.keys():
        time.sleep(0.001)
    inner.errors.append(error)
    for step in range(3):
        recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: step}, step)
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
