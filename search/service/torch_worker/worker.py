"""A process beside the service that does what needs torch, one thing after the other."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from pruning.errors import first_line
from search.service.problem_details import ProblemError
from search.service.service_config import SECRET_VARIABLES
from search.system.memory_limit import memory_limited

T = TypeVar("T")

_log = logging.getLogger(__name__)

_SECONDS = 120.0
_MOST_WAITING, _MOST_OF_ONE = 16, 4
_RETRY_AFTER = {"Retry-After": "10"}
_THREADS = "2"


@dataclass(frozen=True)
class Refused:
    """Why it cannot be, as on the command line, and the setting at fault."""

    detail: str
    field: str | None


class Worker:
    """One process that does one thing after the other, replaced when it dies or hangs.

    Time is counted from when a thing is begun; one that nobody waits for any more is still done
    before the next.  memory_gb: what the process may take; None for any.
    """

    def __init__(self, memory_gb: float | None = None) -> None:
        self._memory_gb = memory_gb
        self._process: _Process | None = None
        self._turn = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Things that are being done, or wait for it."""
        return self._waiting.total()

    async def do(self, function: Callable[..., T | Refused], *arguments: Any, who: str = "") -> T:
        """What the function gives there.

        who: of whom so many things may wait at most; nobody in particular by default.
        ProblemError 422 if the function refuses, fails or takes too long, 429 if too much of
        `who` waits already, 503 if too much waits in all.
        """
        if who and self._waiting[who] >= _MOST_OF_ONE:
            detail = f"{_MOST_OF_ONE} of your requests are being checked: wait for one of them"
            raise ProblemError(429, detail, **_RETRY_AFTER)
        if self._waiting.total() >= _MOST_WAITING:
            raise ProblemError(503, "too many requests are being checked", **_RETRY_AFTER)
        self._waiting[who] += 1
        task = asyncio.create_task(self._in_turn(function, arguments, who))
        task.add_done_callback(_heard)
        found = await asyncio.shield(task)
        if isinstance(found, Refused):
            raise ProblemError(422, found.detail, found.field)
        return found

    async def _in_turn(
        self, function: Callable[..., T | Refused], arguments: tuple[Any, ...], who: str
    ) -> T | Refused:
        try:
            async with self._turn:
                return await self._done(function, arguments)
        finally:
            self._waiting -= Counter({who: 1})

    async def _done(
        self, function: Callable[..., T | Refused], arguments: tuple[Any, ...]
    ) -> T | Refused:
        for is_last in (False, True):
            if self._is_closed:
                raise ProblemError(503, "the service is about to end", **_RETRY_AFTER)
            self._process = self._process or _Process(self._memory_gb)
            try:
                call = asyncio.to_thread(self._process.call, function, arguments)
                found = await asyncio.wait_for(call, _SECONDS)
                break
            except TimeoutError:
                self._end()
                raise ProblemError(422, f"this took longer than {_SECONDS:g} s") from None
            except (EOFError, OSError):
                self._end()
                if is_last and not self._is_closed:
                    raise ProblemError(422, "checking these settings ends the process") from None
        if isinstance(found, _Failed):
            _log.error("the worker failed at %s: %s", function.__name__, found.trace)
            raise ProblemError(422, f"this cannot be done: {found.line}")
        return found

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._end()


def _heard(task: asyncio.Task[Any]) -> None:
    """Take notice of the outcome where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True)
class _Failed:
    """An error that nobody foresaw: of a network's own code, say, or torch's."""

    line: str
    trace: str


class _Process:
    def __init__(self, memory_gb: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, memory_gb), daemon=True)
        self._process.start()
        other.close()

    def call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T | _Failed:
        """Wait for what the function gives there; EOFError or OSError if the process ends."""
        self._connection.send((function, arguments))
        found: T | _Failed = self._connection.recv()
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _work(connection: Connection, memory_gb: float | None) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = _THREADS
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    import torch  # noqa: PLC0415 - here, and nowhere else in the service

    torch.set_num_threads(int(_THREADS))
    with memory_limited(memory_gb):
        while True:
            function, arguments = connection.recv()
            try:
                found = function(*arguments)
            except Exception as error:
                found = _Failed(first_line(error), traceback.format_exc())
            connection.send(found)


def _end_with_parent() -> None:
    """A service that is killed cannot end this process, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
