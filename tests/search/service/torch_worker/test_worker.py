"""The process beside the service: what it does, what waits for it, and what ends it."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.errors import ConfigError
from search.service.problem_details import ProblemError
from search.service.torch_worker import worker as worker_module
from search.service.torch_worker.worker import Refusal, TorchWorker
from search.system.child_process import ChildProcess

Make = Callable[[], TorchWorker]


@pytest.fixture(scope="module")
def idle() -> Iterator[list[ChildProcess]]:
    """The process that a test leaves to the next: one takes seconds to start."""
    left: list[ChildProcess] = []
    yield left
    for process in left:
        process.kill()


@pytest.fixture
def make(idle: list[ChildProcess]) -> Iterator[Make]:
    made: list[TorchWorker] = []

    def make() -> TorchWorker:
        made.append(TorchWorker())
        made[-1]._process = idle.pop() if idle else None
        return made[-1]

    yield make
    for worker in made:
        if worker._process is not None and not worker.num_waiting:
            idle.append(worker._process)
            worker._process = None
        worker.close()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def end() -> None:
    os._exit(3)


def fail() -> None:
    raise KeyError("nobody foresaw this")


def fault() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def fault_once(marker: Path) -> int:
    if not marker.exists():
        marker.touch()
        raise ConfigError("not measured") from torch.AcceleratorError("CUDA error: ECC")
    return os.getpid()


def refuse() -> Refusal:
    return Refusal("no", "model")


async def refused(doing: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(ProblemError) as caught:
        await doing
    return caught.value.status, caught.value.detail


def test_whatever_goes_wrong_in_it_the_next_thing_is_done(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: TorchWorker) -> None:
        assert await worker.run(nap, 0.0) == 0.0
        first = await worker.run(os.getpid)
        assert first != os.getpid()
        assert await refused(worker.run(refuse)) == (422, "no")
        assert await refused(worker.run(fail)) == (
            422,
            "this cannot be done: 'nobody foresaw this'",
        )
        assert await worker.run(os.getpid) == first
        line = end.__code__.co_firstlineno + 1
        assert await refused(worker.run(end)) == (
            422,
            "checking these settings ends the process: exit status 3 "
            f"(test_worker.py, line {line}, in end)",
        )
        assert await worker.run(os.getpid) != first
        monkeypatch.setattr(worker_module, "_SECONDS", 0.2)
        assert await refused(worker.run(nap, 60.0)) == (422, "this took longer than 0.2 s")
        monkeypatch.setattr(worker_module, "_SECONDS", 120.0)
        assert await worker.run(nap, 0.0) == 0.0

    asyncio.run(scenario(make()))


def test_a_process_that_a_fault_of_the_gpu_has_poisoned_is_replaced(
    make: Make, tmp_path: Path
) -> None:
    """It could measure nothing more: the task is done again in another."""

    async def scenario(worker: TorchWorker) -> None:
        first = await worker.run(os.getpid)
        second = await worker.run(fault_once, tmp_path / "marker")
        assert await worker.run(os.getpid) == second != first
        assert await refused(worker.run(fault)) == (
            422,
            "checking these settings ends the process: CUDA error: device-side assert triggered",
        )
        assert await worker.run(os.getpid) not in (first, second)

    asyncio.run(scenario(make()))


def test_it_is_not_given_the_secrets_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_SERVICE_DATABASE", "secret")
    with closing(TorchWorker()) as worker:
        assert asyncio.run(worker.run(os.getenv, "ESPALIER_SERVICE_DATABASE", "none")) == "none"


def test_time_is_counted_from_the_beginning_of_each_thing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they take longer than one may."""

    async def scenario(worker: TorchWorker) -> None:
        await worker.run(nap, 0.0)  # it has imported torch
        monkeypatch.setattr(worker_module, "_SECONDS", 2.5)
        assert await asyncio.gather(*(worker.run(nap, 0.7) for _ in range(5))) == [0.7] * 5

    asyncio.run(scenario(make()))


def test_too_much_is_refused_in_all_and_of_one(make: Make) -> None:
    async def scenario(worker: TorchWorker) -> None:
        waiting = [asyncio.create_task(worker.run(nap, 0.01, caller="a")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as caught:
            await worker.run(nap, 0.0, caller="a")
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "10"})
        waiting += [asyncio.create_task(worker.run(nap, 0.01, caller=f"{n}")) for n in range(12)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as caught:
            await worker.run(nap, 0.0, caller="b")
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "10"})
        assert await asyncio.gather(*waiting) == [0.01] * 16
        assert await worker.run(nap, 0.0, caller="a") == 0.0

    asyncio.run(scenario(make()))


def test_who_goes_away_ends_nobody_elses_request(make: Make) -> None:
    async def scenario(worker: TorchWorker) -> None:
        impatient = asyncio.create_task(worker.run(nap, 0.5))
        await asyncio.sleep(0.1)
        patient = asyncio.create_task(worker.run(nap, 0.0))
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert await patient == 0.0

    asyncio.run(scenario(make()))


def test_an_export_keeps_no_preflight_waiting(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.finish("exported", ["a-1"])
    for file in (service.runs / "exported" / "exports").iterdir():
        file.unlink()
    begun, goes_on = threading.Event(), threading.Event()

    async def slow(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.to_thread(goes_on.wait, 60)
        raise ProblemError(503, "given up")

    monkeypatch.setattr(service.components.exporter, "run", slow)
    with ThreadPoolExecutor(1) as other:
        path = "/v1/architectures/exported:a-1/onnx"
        export = other.submit(lambda: service.ask("GET", path, timeout=90))
        try:
            assert begun.wait(30)
            body = json.dumps({"budget": ["flops=60%"], "data": {"source": "digits"}}).encode()
            assert service.ask("POST", "/v1/preflight", body).status == 200
            assert not export.done()
        finally:
            goes_on.set()
        assert export.result(30).status == 503


def test_closing_ends_what_is_done_and_what_waits(make: Make) -> None:
    async def scenario(worker: TorchWorker) -> None:
        await worker.run(nap, 0.0)
        tasks = [asyncio.create_task(worker.run(nap, 60.0)) for _ in range(3)]
        await asyncio.sleep(0.2)
        worker.close()
        for task in tasks:
            assert (await refused(task))[0] == 503

    began = time.monotonic()
    asyncio.run(scenario(make()))
    assert time.monotonic() - began < 50
