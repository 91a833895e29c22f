"""A process beside the service that does tasks which need torch, one after the other."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pruning.errors import EspalierError
from search.service.problem_details import ProblemError
from search.service.service_config import SECRET_VARIABLES
from search.system.child_process import ChildProcess, ProcessEndedError, TaskFailedError
from search.system.memory_limit import memory_limited

T = TypeVar("T")

_log = logging.getLogger(__name__)

_SECONDS = 120.0
_MAX_WAITING, _MAX_PER_CALLER = 16, 4
_RETRY_AFTER = {"Retry-After": "10"}
_THREADS = "2"


@dataclass(frozen=True)
class Refusal:
    """What a task returns instead of a result: why it cannot be done, and the setting at fault."""

    detail: str
    field: str | None


class OverTimeError(ProblemError):
    """A task took longer than it may."""


class TorchWorker:
    """One process that does one task after the other, replaced when it dies or hangs.

    The time of a task is counted from when it begins; one that nobody waits for any more is still
    done before the next.  memory_gb: what the process may take; None for any.
    """

    def __init__(self, memory_gb: float | None = None) -> None:
        self._memory_gb = memory_gb
        self._process: ChildProcess | None = None
        self._turn = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Tasks that are being done, or wait."""
        return self._waiting.total()

    async def run(self, task: Callable[..., T | Refusal], *arguments: Any, caller: str = "") -> T:
        """What the task returns, called in the process.

        caller: whose tasks are counted together; those of "" only in all.  Raises ProblemError
        422 if the task refuses, fails or takes too long (OverTimeError), 429 if too many tasks of
        the caller wait already, 503 if too many wait in all.
        """
        if caller and self._waiting[caller] >= _MAX_PER_CALLER:
            detail = f"{_MAX_PER_CALLER} of your requests are being checked: wait for one of them"
            raise ProblemError(429, detail, **_RETRY_AFTER)
        if self._waiting.total() >= _MAX_WAITING:
            raise ProblemError(503, "too many requests are being checked", **_RETRY_AFTER)
        self._waiting[caller] += 1
        job = asyncio.create_task(self._run_in_turn(task, arguments, caller))
        job.add_done_callback(_consume_error)
        result = await asyncio.shield(job)
        if isinstance(result, Refusal):
            raise ProblemError(422, result.detail, result.field)
        return result

    async def _run_in_turn(
        self, task: Callable[..., T | Refusal], arguments: tuple[Any, ...], caller: str
    ) -> T | Refusal:
        try:
            async with self._turn:
                return await self._run_in_process(task, arguments)
        finally:
            self._waiting -= Counter({caller: 1})

    async def _run_in_process(
        self, task: Callable[..., T | Refusal], arguments: tuple[Any, ...]
    ) -> T | Refusal:
        for is_last in (False, True):
            if self._is_closed:
                raise ProblemError(503, "the service is about to end", **_RETRY_AFTER)
            begin = functools.partial(_torch_imported, self._memory_gb)
            self._process = self._process or ChildProcess("spawn", begin)
            try:
                call = asyncio.to_thread(self._process.call, task, *arguments)
                return await asyncio.wait_for(call, _SECONDS)
            except TimeoutError:
                self._end()
                raise OverTimeError(422, f"this took longer than {_SECONDS:g} s") from None
            except ProcessEndedError as ended:
                self._end()
                if is_last and not self._is_closed:
                    detail = f"checking these settings ends the process: {ended}"
                    raise ProblemError(422, detail) from None
            except (EspalierError, TaskFailedError) as error:
                _log.exception("the worker failed at %s", task.__name__)
                raise ProblemError(422, f"this cannot be done: {error}") from error
        raise ProblemError(503, "the service is about to end", **_RETRY_AFTER)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._end()


def _consume_error(job: asyncio.Task[Any]) -> None:
    """Keep asyncio from warning of an error that nobody waits for any more."""
    if not job.cancelled():
        job.exception()


@contextmanager
def _torch_imported(memory_gb: float | None) -> Iterator[None]:
    """Torch is there, on few threads, and what the service knows is not."""
    os.environ["OMP_NUM_THREADS"] = _THREADS
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    import torch  # noqa: PLC0415 - here, and nowhere else in the service

    torch.set_num_threads(int(_THREADS))
    with memory_limited(memory_gb):
        yield
