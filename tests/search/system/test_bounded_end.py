"""A process that was told to end has ended after some seconds, whatever hangs in it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from serving import eventually

from search.system.bounded_end import BoundedEnd

HANGING = """
import sys, threading, time
from search.system.bounded_end import BoundedEnd
end = BoundedEnd(0.5)
end.start()
threading.Thread(target=threading.Event().wait).start()  # Python waits for it
if "told" in sys.argv:
    end.begin()
"""


def test_nothing_is_ended_before_it_is_told_to() -> None:
    left: list[int] = []
    end = BoundedEnd(0.0, left.append)
    end.start()
    time.sleep(0.5)
    assert left == []
    end.begin()
    eventually(lambda: left == [1], 10)


def test_what_has_to_be_done_before_is_done_whatever_comes_of_it() -> None:
    done: list[object] = []

    def failing() -> None:
        done.append("tried")
        raise OSError("no")

    end = BoundedEnd(0.3, done.append)
    end.before_force(failing)
    end.before_force(lambda: done.append("killed"))
    end.start()
    end.begin()
    end.begin()
    eventually(lambda: done == ["tried", "killed", 1], 10)


def test_what_hangs_before_is_not_waited_for() -> None:
    left: list[int] = []
    end, goes_on = BoundedEnd(0.0, left.append), threading.Event()
    end.before_force(lambda: goes_on.wait(60))
    end.start()
    end.begin()
    eventually(lambda: left == [1], 30)
    assert not goes_on.is_set()
    goes_on.set()


def test_it_watches_no_longer_than_it_is_needed() -> None:
    resting, begun = BoundedEnd(0.0, lambda _: None), BoundedEnd(60.0, lambda _: None)
    begun.begin()
    for end in (resting, begun):
        end.start()
        end.rest()
    eventually(lambda: not resting._thread.is_alive(), 10)
    assert begun._thread.is_alive()


@pytest.mark.parametrize("told", [True, False])
def test_threads_that_wait_for_ever_end_with_the_process(told: bool) -> None:
    command = [sys.executable, "-c", HANGING, *(["told"] if told else [])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        if not told:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            return
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "not everything ends within 0.5 s: ended by force\n"
