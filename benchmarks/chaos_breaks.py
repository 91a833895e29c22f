"""What `chaos.py` breaks."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from chaos_service import Postgres, Service, below, with_words

Break = Callable[[], None]


def kill(processes: list[psutil.Process], chance: random.Random) -> None:
    """One of them, with SIGKILL."""
    if processes:
        with suppress(psutil.Error):
            chance.choice(processes).kill()


def breaks(
    service: Service, postgres: Postgres, chance: random.Random, *, may_fill: bool
) -> dict[str, Break]:
    """What can be broken here, by name; each is whole again when it returns, or mends itself."""

    def own() -> int:
        return service.process.pid if service.process else -1

    def killed_service() -> None:
        with suppress(ProcessLookupError):
            os.kill(own(), signal.SIGKILL)

    def killed_preflight() -> None:
        begun = {process.pid for process in below(own())}
        workers = with_words("multiprocessing.spawn")
        kill([process for process in workers if process.pid in begun], chance)

    def killed_search() -> None:
        kill(with_words("search.cli resume", str(service.runs)), chance)

    def killed_ray_worker() -> None:
        searches = with_words("search.cli resume", str(service.runs))
        kill([p for one in searches for p in below(one.pid)], chance)

    def killed_mlflow() -> None:
        kill(with_words("mlflow", str(service.mlflow_port)), chance)

    def hung_mlflow() -> None:
        found = with_words("mlflow", str(service.mlflow_port))
        for process in found:
            with suppress(psutil.Error):
                process.suspend()
        time.sleep(chance.uniform(5, 25))
        for process in found:
            with suppress(psutil.Error):
                process.resume()

    def database_away() -> None:
        postgres.run("stop", "-m", "immediate")
        time.sleep(chance.uniform(3, 20))
        postgres.run("start", "-w")

    def full_disk() -> None:
        filler = service.runs.parent / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(2**16))
        time.sleep(chance.uniform(5, 25))
        filler.unlink()

    found: dict[str, Break] = {
        "the service killed": killed_service,
        "its preflight process killed": killed_preflight,
        "a search killed": killed_search,
        "a process of Ray killed": killed_ray_worker,
        "MLflow killed": killed_mlflow,
        "MLflow hung for 5 to 25 s": hung_mlflow,
    }
    if postgres.url:
        found["the database away for 3 to 20 s"] = database_away
    if may_fill:
        found["the disk full for 5 to 25 s"] = full_disk
    return found
