"""How fast the service answers, how much memory it takes, and whether a key launches once.

    python benchmarks/service.py                # 1,000 finished searches of 100 architectures

Fills a database, starts `espalier serve` on it and offers requests at a fixed rate, whatever came
of those before; latencies count from the moment a request was due, so that a stall is seen.
Meanwhile 50 event streams stay open. At last 100 requests with 10 Idempotency-Keys launch at once.
Writes benchmarks/results/service.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from sqlalchemy.orm import Session

from search.service.database.connection import open_database
from search.service.database.tables import ArchitectureRow, SearchRow
from search.service.database.transactions import now_ms
from search.storage.layout import EVENTS_FILE

RESULTS = Path(__file__).parent / "results" / "service.md"
STREAMS, POSTS, KEYS = 50, 100, 10
LARGE_BYTES = 40 * 10**6
_SETTLING_SECONDS = 10.0
_FRAME = {"base": {"flops": 12_000_000, "params": 300_000}, "limits": {"flops": 3_000_000.0}}
_SETTINGS = {"model": "digits-vgg", "budget": ["flops=25%"], "data": {"source": "digits"}}
_TINY = {
    "data": {"source": "digits", "limit_train": 200},
    "training": {"epochs": 1, "fine_tune_epochs": 1},
    "budget": ["flops=50%"],
    "trials": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--architectures", type=int, default=100, help="of each search")
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each repetition")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=8142)
    parser.add_argument("--mlflow-port", type=int, default=5142)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        fill(runs, arguments.searches, arguments.architectures)
        with served(runs, arguments.port, arguments.mlflow_port) as process:
            found = asyncio.run(measure(process, arguments))
    report = written(found, arguments)
    RESULTS.write_text(report)
    print(report)


def fill(runs: Path, searches: int, architectures: int) -> None:
    """A database of finished searches, of which half of the architectures are on the front."""
    engine = open_database(f"sqlite:///{runs / 'service.db'}")
    generator = random.Random(0)
    with Session(engine) as session, session.begin():
        for number in range(searches):
            session.add(_search(number))
        session.flush()
        for number in range(searches):
            session.add_all(_architecture(number, key, generator) for key in range(architectures))
    engine.dispose()
    record = {"stage": "training", "step": 1, "num_steps": 9, "validation_score": 0.5}
    event = {"event": "epochs", "time_ms": 1, "key": "fine-tuned-1", "records": [record]}
    line = json.dumps(event).encode() + b"\n"
    (runs / "search-0").mkdir()
    (runs / "search-0" / EVENTS_FILE).write_bytes(line * (LARGE_BYTES // len(line) + 1))


def _search(number: int) -> SearchRow:
    best = {"key": "fine-tuned-1", "origin": "fine-tuned", "flops": 1_000_000, "params": 30_000}
    progress = {
        "trials": {"planned": 50, "finished": 50, "running": 0, "waiting": 0},
        "networks": 100,
        "epochs": 8000,
        "expected_epochs": 8000,
        "best": {**best, "validation_score": 0.9},
        "hypervolume": 0.8,
        "seconds_left": None,
        "running": [],
    }
    name = f"search-{number}"
    return SearchRow(
        id=name,
        name=name,
        position=number + 1,
        state="finished",
        settings={**_SETTINGS, "name": name},
        progress=progress,
        frame={**_FRAME, "lines": ["base network 12M FLOPs"]},
        created_ms=now_ms(),
        started_ms=now_ms(),
        ended_ms=now_ms(),
    )


def _architecture(number: int, key: int, generator: random.Random) -> ArchitectureRow:
    outcome: dict[str, Any] = {
        "key": f"fine-tuned-{key}",
        "origin": "fine-tuned",
        "trial": key,
        "rung": 0.5,
        "alpha": 1.0,
        "flops": generator.randrange(10_000, 3_000_000),
        "params": generator.randrange(1000, 300_000),
        "validation_score": generator.random(),
        "test_score": generator.random(),
        "profile": "0123abcd",
        "path": f"architectures/fine-tuned-{key}",
        "weight_bytes": 100_000,
        "peak_activation_bytes": 200_000,
        "details": {"accuracy before pruning": 0.9, "accuracy after pruning": 0.5},
    }
    names = ("key", "origin", "flops", "params", "validation_score")
    columns = {name: outcome[name] for name in names}
    return ArchitectureRow(
        search_id=f"search-{number}", on_front=key % 2 == 0, outcome=outcome, **columns
    )


@contextmanager
def served(runs: Path, port: int, mlflow_port: int) -> Iterator[psutil.Process]:
    """The process of `espalier serve`, once it can launch searches."""
    command = [sys.executable, "-m", "search.cli", "serve", "--runs", str(runs)]
    ports = ["--port", str(port), "--mlflow-port", str(mlflow_port)]
    data = ["--data-root", str(runs.parent / "data")]
    child = subprocess.Popen([*command, *ports, *data], start_new_session=True)
    try:
        _wait(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).is_success)
        time.sleep(_SETTLING_SECONDS)  # MLflow's server still imports what it needs
        yield psutil.Process(child.pid)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(120)


def _wait(is_done: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if is_done():
                return
        time.sleep(0.5)
    raise TimeoutError("the service does not come up")


async def measure(process: psutil.Process, arguments: argparse.Namespace) -> dict[str, Any]:
    """Latencies of each kind of load, in milliseconds; memory in MB; what was launched."""
    url, kinds = f"http://127.0.0.1:{arguments.port}", ("front", "searches", "both")
    latencies: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    loads, memory = [], []
    async with _client(url) as client, _held(client, process):
        launched = await _launch(client)
        memory.append(process.memory_info().rss / 1e6)
        async with _streams(url, launched["ids"][0]) as num_open:
            for _ in range(arguments.repeats):
                for kind in kinds:
                    # A fresh one: httpx looks at every open connection before each request.
                    async with _client(url) as fresh:
                        latencies[kind].append(await _offer(fresh, kind, arguments))
                    memory.append(process.memory_info().rss / 1e6)
                    loads.append(os.getloadavg()[0])
            streams = num_open()
        kept, large = await _kept_alive(url), await _large_streams(url, process)
        for name in launched["ids"]:
            (await client.post(f"/v1/searches/{name}/stop")).raise_for_status()
    return {
        "latencies": latencies,
        "memory": memory,
        "loads": loads,
        "streams": streams,
        "launched": launched,
        "kept": kept,
        "large": large,
    }


async def _kept_alive(url: str) -> float:
    """The median of milliseconds for a small answer, one after the other on one connection."""
    found = []
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(200):
            begun = time.perf_counter()
            (await client.get("/livez")).raise_for_status()
            found.append(1000 * (time.perf_counter() - begun))
    return median(found)


async def _large_streams(url: str, process: psutil.Process) -> dict[str, float]:
    """What three streams of a large file of events cost, and somebody who asks meanwhile."""
    before, most, waits = process.memory_info().rss / 1e6, [0.0], []
    begun = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=None) as client:

        async def read() -> int:
            async with client.stream("GET", "/v1/searches/search-0/events") as answer:
                return sum([len(block) async for block in answer.aiter_bytes()])

        async def ask(readers: asyncio.Task[list[int]]) -> None:
            while not readers.done():
                asked = time.perf_counter()
                (await client.get("/v1/searches", params={"limit": 1})).raise_for_status()
                waits.append(1000 * (time.perf_counter() - asked))
                most.append(process.memory_info().rss / 1e6)
                await asyncio.sleep(0.02)

        async def read_all() -> list[int]:
            return await asyncio.gather(*(read() for _ in range(3)))

        readers = asyncio.create_task(read_all())
        await ask(readers)
        sizes = await readers
    assert min(sizes) > LARGE_BYTES
    return {
        "memory": max(most) - before,
        "seconds": time.perf_counter() - begun,
        "longest": max(waits),
    }


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=256, keepalive_expiry=2)  # before the server does
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=60)


@asynccontextmanager
async def _held(client: httpx.AsyncClient, process: psutil.Process) -> AsyncIterator[None]:
    """One search runs, but is suspended: others wait behind it, and only the service works."""
    (await client.post("/v1/searches", json={**_TINY, "name": "held"})).raise_for_status()
    held = []
    while not held:
        await asyncio.sleep(0.02)
        held = [child for child in process.children() if "resume" in child.cmdline()]
    held[0].suspend()
    try:
        yield
    finally:
        await client.post("/v1/searches/held/stop")
        held[0].resume()


async def _launch(client: httpx.AsyncClient) -> dict[str, Any]:
    """Launch many searches at once with few keys."""

    async def post(number: int) -> httpx.Response:
        key = {"Idempotency-Key": f"key-{number % KEYS}"}
        settings = {**_TINY, "name": f"launched-{number % KEYS}"}
        return await client.post("/v1/searches", json=settings, headers=key)

    began = time.perf_counter()
    answers = await asyncio.gather(*(post(number) for number in range(POSTS)))
    seconds = time.perf_counter() - began
    ids = sorted({answer.json()["id"] for answer in answers})
    found = await client.get("/v1/searches", params={"name": "launched-", "limit": 1})
    statuses = [answer.status_code for answer in answers]
    return {
        "ids": ids,
        "rows": found.json()["total"],
        "seconds": seconds,
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


@asynccontextmanager
async def _streams(url: str, search: str) -> AsyncIterator[Callable[[], int]]:
    """Streams of a search that waits, which last; gives how many were told something and last."""
    told: set[int] = set()

    async def follow(client: httpx.AsyncClient, number: int) -> None:
        async with client.stream("GET", f"/v1/searches/{search}/events") as answer:
            async for _ in answer.aiter_bytes():
                told.add(number)

    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None) as client:
        tasks = [asyncio.create_task(follow(client, number)) for number in range(STREAMS)]
        yield lambda: sum(n in told and not task.done() for n, task in enumerate(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _offer(
    client: httpx.AsyncClient, kind: str, arguments: argparse.Namespace
) -> list[float]:
    """Milliseconds from when each request was due to the last byte of its answer."""
    generator, found = random.Random(1), []
    count = int(arguments.rate * arguments.seconds)

    async def one(due: float, path: str) -> None:
        (await client.get(path)).raise_for_status()
        found.append(1000 * (time.perf_counter() - due))

    begin, tasks = time.perf_counter() + 0.5, []
    for number in range(count):
        due = begin + number / arguments.rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        is_front = kind == "front" or (kind == "both" and number % 2 == 0)
        name = f"search-{generator.randrange(arguments.searches)}"
        path = f"/v1/searches/{name}/front" if is_front else "/v1/searches"
        tasks.append(asyncio.create_task(one(due, path)))
    await asyncio.gather(*tasks)
    return sorted(found)


def written(found: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The report, in Markdown."""
    launched, memory, loads = found["launched"], found["memory"], found["loads"]
    large = found["large"]
    packages = ("fastapi", "uvicorn", "sqlalchemy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    command = (
        f"python benchmarks/service.py --searches {arguments.searches} --architectures "
        f"{arguments.architectures} --rate {arguments.rate} --seconds {arguments.seconds:g} "
        f"--repeats {arguments.repeats}"
    )
    rows = [
        f"| GET {kind} | {sum(map(len, repeats))} | {_over(repeats, 0.5)} | {_over(repeats, 0.99)} "
        f"| {max(map(max, repeats)):.0f} |"
        for kind, repeats in found["latencies"].items()
    ]
    return f"""# The service under load

`{command}` on {os.cpu_count()} cores ({platform.machine()}) that other work shared: a load of \
{min(loads):.1f} to {max(loads):.1f} (of a minute), this benchmark's own among it. Python \
{platform.python_version()}, {versions}, SQLite. {arguments.searches} finished searches of \
{arguments.architectures} architectures, half of them on the front; {arguments.rate} requests a \
second on a fixed schedule from another process, {STREAMS} event streams open meanwhile. \
Milliseconds from when a request was due; mean and deviation over {arguments.repeats} repetitions.

| | n | p50 | p99 | longest |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

- The first repetition of GET front asks for most fronts for the first time, and is answered from \
the database: p99 {_percentile(found["latencies"]["front"][0], 0.99):.1f} ms; others are not.
- Memory of the service's process: {memory[0]:.0f} MB before, at most {max(memory):.0f} MB.
- Event streams that were told something and still open at the end: {found["streams"]}.
- {POSTS} POSTs at once with {KEYS} keys: {launched["rows"]} searches in {launched["seconds"]:.1f} \
s; answers by status {json.dumps(launched["statuses"])}.
- A small answer on a connection that is kept: {found["kept"]:.1f} ms (median of 200 in a row).
- Three streams of {LARGE_BYTES / 1e6:.0f} MB of events: {large["memory"]:+.0f} MB, read in \
{large["seconds"]:.1f} s; whoever asked for something else meanwhile waited {large["longest"]:.0f} \
ms at most.
"""


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]


def _over(repeats: list[list[float]], share: float) -> str:
    values = [_percentile(ordered, share) for ordered in repeats]
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
