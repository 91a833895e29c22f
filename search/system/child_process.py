"""A process that does tasks beside this one, and whose end is told if it ends of itself.

People's own code may end the process that runs it: by os._exit, by a fault of a library in C, by
using up the memory. Whoever waits for a child process learns how it ended, and where.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

from pruning.errors import (
    EspalierError,
    LostProcessError,
    ModelError,
    first_line,
    own_frame,
)
from pruning.lazy_imports import lazy_modules
from search.system.accelerator_faults import poisoning

if TYPE_CHECKING:
    import torch
else:
    (torch,) = lazy_modules("torch")

T = TypeVar("T")

_STACK_FILE = "stack.txt"
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_END_SECONDS = 10.0


class ProcessEndedError(Exception):
    """A child process ended before its task did; the message says how, and where as far as known:

    "exit status 3 (nets.py, line 12, in forward)", or "SIGSEGV" in place of the exit status.
    is_killed: from outside, as where memory runs out.
    """

    def __init__(self, how: str, *, is_killed: bool = False) -> None:
        super().__init__(how)
        self.is_killed = is_killed

    def told(self, what: str) -> EspalierError:
        """An error for people; `what` says what was done."""
        return (LostProcessError if self.is_killed else ModelError)(f"{what}: {self}")


class TaskFailedError(Exception):
    """A task raised what was not foreseen; its traceback is a note."""


class NotPickledError(TaskFailedError):
    """What a task returned or raised cannot be sent to another process."""


def apart(task: Callable[..., T], *arguments: Any) -> T:
    """What the task returns, done in a copy of this process, which it may end.

    Where there is no way to a copy it is done in this process: beside Linux, with a GPU, in a
    process that may have no child, or that has computed gradients, which torch's autograd cannot
    go on with in a copy; and so it is, once more, if its result cannot be sent.
    Raises the errors of `ChildProcess.result`.
    """
    is_daemon = multiprocessing.current_process().daemon
    if sys.platform != "linux" or is_daemon or torch.cuda.is_available():
        return task(*arguments)
    importlib.import_module("torch._dynamo")  # or a copy would each time, for the optimizer
    child = ChildProcess("fork", _one_thread, (_with_gradients, (task, *arguments)))
    try:
        result: T = child.result()
    except (NotPickledError, _NoGradientsError):
        return task(*arguments)
    finally:
        child.kill()
    return result


class _NoGradientsError(EspalierError):
    """A copy of this process cannot compute gradients, as this process has done."""


def _with_gradients(task: Callable[..., T], *arguments: Any) -> T:
    """What the task returns; _NoGradientsError where gradients cannot be computed."""
    try:
        ones = torch.ones(1, requires_grad=True)
        torch.autograd.grad(ones.sum(), ones)
    except RuntimeError as error:
        raise _NoGradientsError(first_line(error)) from None
    return task(*arguments)


@contextmanager
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)  # the others of a process are not in its copy
    yield


class ChildProcess:
    """Does one task after the other.

    method: spawn for a new interpreter; fork for a copy of this process, on Linux and where no GPU
        is: what is given need not be pickled, and torch has to do with one thread.
    begin: makes what is open there as long as the process lives.
    first: a task, and its arguments, that is begun at once.
    """

    def __init__(
        self,
        method: Literal["fork", "spawn"],
        begin: Callable[[], AbstractContextManager[Any]] = nullcontext,
        first: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="espalier-")
        context: ForkContext | SpawnContext = (
            multiprocessing.get_context("fork")
            if method == "fork"
            else multiprocessing.get_context("spawn")
        )
        self._connection, other = context.Pipe()
        arguments = other, begin, self._folder.name, first
        process = context.Process(target=_serve, args=arguments, daemon=True)
        with warnings.catch_warnings():  # forks are said to be dangerous beside threads
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        self._process: BaseProcess = process
        other.close()

    def call(self, task: Callable[..., T], *arguments: Any) -> T:
        """Have this task done; see `result`."""
        try:
            self._connection.send((task, arguments))
        except OSError as closed:
            raise self._ended() from closed
        result: T = self.result()
        return result

    def result(self) -> Any:
        """What the next task that is done returns.

        Raises the EspalierError that it raises, TaskFailedError for any other exception, and
        ProcessEndedError if the process ends, or has an accelerator that can no longer be used.
        """
        try:
            result, error = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as closed:
            raise self._ended() from closed
        if error is not None:
            raise error
        return result

    def _ended(self) -> ProcessEndedError:
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        if code is None:
            return ProcessEndedError("it no longer answers")
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        if is_killed := code == -signal.SIGKILL:
            how += ", as where memory runs out"
        path = Path(self._folder.name) / _STACK_FILE
        stack = path.read_text(errors="replace") if path.exists() else ""
        frames = _FRAME.findall(stack.rpartition("most recent call first")[-1])
        own = own_frame((file, int(line), name) for file, line, name in reversed(frames))
        where = f" ({own[0]}, line {own[1]}, in {own[2]})" if own else ""
        return ProcessEndedError(f"{how}{where}", is_killed=is_killed)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._folder.cleanup()


def _serve(
    connection: Connection,
    begin: Callable[[], AbstractContextManager[Any]],
    folder: str,
    task: tuple[Callable[..., Any], tuple[Any, ...]] | None,
) -> None:
    """Do this task and every one that arrives, in the process itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tempfile.tempdir = folder  # which the parent removes, however this process ends
    with (Path(folder) / _STACK_FILE).open("w") as stack:
        faulthandler.disable()  # what is enabled already would leave handlers of others in place
        faulthandler.enable(stack, all_threads=False)
        _note_exits(stack)
        with begin(), suppress(EOFError, ConnectionError):  # the parent is gone
            while True:
                connection.send_bytes(_pickled(*_done(*(task or connection.recv()))))
                task = None


def _pickled(result: object, error: Exception | None) -> bytes:
    try:
        return pickle.dumps((result, error))
    except Exception as problem:  # whatever people's own classes hold
        return pickle.dumps((None, NotPickledError(first_line(problem))))


def _done(task: Callable[..., T], arguments: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    try:
        return task(*arguments), None
    except Exception as error:
        if words := poisoning(error):
            return None, ProcessEndedError(words)  # as good as: it could do no other task
        if isinstance(error, EspalierError):
            return None, error
        failure = TaskFailedError(first_line(error))
        failure.add_note(traceback.format_exc())
        return None, failure


def _note_exits(stack: TextIO) -> None:
    """Have os._exit write down where it is called from, in this process alone."""
    leave, process = os._exit, os.getpid()

    def noted(status: int) -> None:
        try:
            if os.getpid() == process:
                faulthandler.dump_traceback(stack, all_threads=False)
        finally:  # also where the file is closed by now
            leave(status)

    os._exit = noted  # type: ignore[assignment]


def _end_with_parent() -> None:
    """End with the parent: one that is killed cannot end this process itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
