"""A child process: what its tasks return and raise, and how it is told that it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import ConfigError, LostProcessError
from search.system.child_process import ChildProcess, ProcessEndedError, TaskFailedError
from search.system.exit_status import EXIT_LOST, EXIT_REFUSED, exit_status, in_a_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    process = ChildProcess("fork")
    yield process
    process.kill()


def fails() -> None:
    raise KeyError("nobody foresaw this")


def refuses() -> None:
    raise ConfigError("no", field="training.epochs")


def leaves() -> None:
    os._exit(3)


def crashes() -> None:
    signal.raise_signal(signal.SIGSEGV)


def line_of(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"({Path(code.co_filename).name}, line {code.co_firstlineno + 1}, in {code.co_name})"


def test_it_returns_what_tasks_return_and_raises_what_they_raise(child: ChildProcess) -> None:
    assert child.call(os.getpid) == child.call(os.getpid) != os.getpid()
    with pytest.raises(ConfigError, match="no") as refused:
        child.call(refuses)
    assert refused.value.field == "training.epochs"
    with pytest.raises(TaskFailedError, match="nobody foresaw this") as failed:
        child.call(fails)
    assert "in fails" in failed.value.__notes__[0]
    assert child.call(sum, [1, 2]) == 3


@pytest.mark.parametrize(
    ("ends", "how"),
    [(leaves, f"exit status 3 {line_of(leaves)}"), (crashes, f"SIGSEGV {line_of(crashes)}")],
)
def test_it_is_told_how_and_where_it_ended(
    child: ChildProcess, ends: Callable[[], None], how: str
) -> None:
    with pytest.raises(ProcessEndedError) as ended:
        child.call(ends)
    assert str(ended.value) == how


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_who_was_killed_may_fare_better_another_time(child: ChildProcess) -> None:
    """As by the kernel, for want of memory: that says little about the network."""
    with pytest.raises(ProcessEndedError) as ended:
        child.call(killed)
    error = ended.value.told("it ends")
    assert isinstance(error, LostProcessError)
    assert str(error) == "it ends: SIGKILL, as where memory runs out"
    assert exit_status(error) == EXIT_LOST
    assert in_a_line(error) == f"this time: {error} (docs/{error.page})"
    again = ProcessEndedError("exit status 3").told("it ends")
    assert exit_status(again) == EXIT_REFUSED
    assert in_a_line(again) == f"it ends: exit status 3 (docs/{again.page})"


def test_a_crash_is_told_where_another_library_has_its_own_handler() -> None:
    """Such as Ray's, which it puts in the place of Python's."""
    before = signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    try:
        child = ChildProcess("fork", first=(crashes, ()))
        with pytest.raises(ProcessEndedError) as ended:
            child.result()
        child.kill()
    finally:
        signal.signal(signal.SIGSEGV, before or signal.SIG_DFL)
    assert str(ended.value) == f"SIGSEGV {line_of(crashes)}"


def test_the_first_task_need_not_be_pickled_and_leaves_no_files() -> None:
    made: list[str] = []

    def leaves_files() -> str:
        made.append("in the child alone")
        return tempfile.mkdtemp()

    child = ChildProcess("fork", first=(leaves_files, ()))
    folder = Path(child.result())
    assert folder.is_dir()
    child.kill()
    assert not folder.exists()
    assert made == []


WITHOUT_PARENT = """
import contextlib, multiprocessing, tempfile
from search.system import child_process
child_process._end_with_parent = lambda: None
here, there = multiprocessing.Pipe()
here.close()
child_process._serve(there, contextlib.nullcontext, tempfile.mkdtemp(), None)
"""
TOO_LATE = """
import os
from search.system import child_process
with open(os.devnull, "w") as stack:
    child_process._note_exits(stack)
os._exit(0)
"""


@pytest.mark.parametrize("program", [WITHOUT_PARENT, TOO_LATE])
def test_it_ends_without_a_word_when_its_parent_was_killed(program: str) -> None:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
