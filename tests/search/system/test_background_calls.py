"""What is passed on beside training: in order, all that waits together, and with its errors."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from search.system.background_calls import BackgroundCalls


class Slow:
    """A disk that writes when it is let to."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, items: list[int]) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=60)
        self.written.append(items)


@pytest.mark.parametrize(("most", "expected"), [(1, [[1], [4]]), (None, [[1], [2, 3, 4]])])
def test_nobody_waits_for_the_disk_and_what_waits_goes_together(
    most: int | None, expected: list[list[int]]
) -> None:
    disk = Slow()
    calls = BackgroundCalls(disk, most=most)
    calls.put(1)
    assert disk.begun.acquire(timeout=60)
    for item in (2, 3, 4):
        calls.put(item)
    assert disk.written == []
    disk.go_on.release(2)
    calls.flush()
    assert disk.written == expected


def test_calls_are_apart_unless_somebody_waits_for_them() -> None:
    """The first at once, the others together: after the time, or as soon as it is urgent."""
    called = threading.Semaphore(0)
    written: list[list[int]] = []

    def call(items: list[int]) -> None:
        written.append(items)
        called.release()

    calls = BackgroundCalls(call, every_seconds=3600)
    calls.put(1)
    assert called.acquire(timeout=60)
    for item in (2, 3):
        calls.put(item)
    assert written == [[1]]
    calls.flush()
    assert written == [[1], [2, 3]]
    soon = BackgroundCalls(call, every_seconds=0.01)
    for item in (4, 5):
        soon.put(item)
    assert called.acquire(timeout=60)
    while [item for items in written for item in items] != [1, 2, 3, 4, 5]:
        assert called.acquire(timeout=60)


def test_its_thread_lasts_no_longer_than_there_is_something_to_write() -> None:
    before = set(threading.enumerate())
    written: list[list[int]] = []
    calls = BackgroundCalls(written.append)
    for item in range(3):
        calls.put(item)
        calls.flush()
    assert written == [[0], [1], [2]]
    assert set(threading.enumerate()) <= before
    BackgroundCalls(written.append).flush()  # there is nothing to wait for


def failing(items: list[int]) -> None:
    if items == [1]:
        raise OSError("no room")


def put(calls: BackgroundCalls[int]) -> None:
    while calls._thread is not None:  # until the first one has failed
        pass
    calls.put(2)


@pytest.mark.parametrize("call", [put, BackgroundCalls.flush])
def test_an_error_is_raised_once_to_whoever_comes_next(
    call: Callable[[BackgroundCalls[int]], None],
) -> None:
    calls = BackgroundCalls(failing)
    calls.put(1)
    with pytest.raises(OSError, match="no room"):
        call(calls)
    calls.put(3)
    calls.flush()


def test_a_process_that_ends_waits_for_it() -> None:
    code = """
import sys, time
from search.system.background_calls import BackgroundCalls

def write(items):
    time.sleep(0.5)
    print(*items, flush=True)

BackgroundCalls(write).put("written")
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "written\n"), done.stderr
