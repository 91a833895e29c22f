"""Breaks everything that a service stands on, at random, and counts what is lost or there twice.

A service performs small searches one after the other, and launches of further ones keep coming,
each with an Idempotency-Key and repeated until it is answered. Meanwhile the service, its worker,
a search, a worker of Ray, or MLflow is killed; MLflow or the database is away for a while; the
disk is full. Then nothing is broken any more, and when all searches are over there has to be one
for every key, each of them finished, with all its trials, its architectures in the database as
in its results, and one finished run in MLflow for each of them.

    python benchmarks/chaos.py --minutes 30 --seed 0

The disk (a small tmpfs) can be filled by root only, the database stopped where PostgreSQL is
installed; what could not be done is said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import httpx
import psutil

from mlflow_server.serve import free_port

DISK_MB = 400
WAITING = 2
"""Searches that the queue is to hold beside the one that runs."""

SETTINGS: dict[str, Any] = {
    "model": "digits-vgg",
    "budget": ["flops=10%"],
    "data": {"source": "digits", "limit_train": 400},
    "training": {"epochs": 4, "fine_tune_epochs": 2, "scratch_epochs": 2, "batch_size": 32},
    "study": {"tempered_trials": 0, "by_products": 0, "early_stopping": False},
    "trials": 3,
    "ladder": [1.0],
    "profiles": 1,
    "equal_compute_pairs": False,
    "concurrency": 1,
    "resources": {"cpus_per_trial": 1},
}


def some_port() -> int:
    """One that nobody listens on for now."""
    return free_port("127.0.0.1", 0)


def below(pid: int) -> list[psutil.Process]:
    """All processes that this one began, and those began."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def with_words(*words: str) -> list[psutil.Process]:
    """Processes that have all of these in their command lines."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words):
            found.append(process)
    return found


# ---- what the service stands on


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small disk at the folder, if this user may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Postgres:
    """A PostgreSQL server in a folder; `url` is empty where it is not installed."""

    folder: Path
    port: int = field(default_factory=some_port)

    @property
    def url(self) -> str:
        return f"postgresql://espalier@127.0.0.1:{self.port}/postgres" if self._binary() else ""

    def _binary(self) -> str:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
        return shutil.which("pg_ctl") or (str(places[0]) if places else "")

    def run(self, *arguments: str) -> None:
        """pg_ctl, as a user that may."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        command = [self._binary(), "-D", f"{self.folder}/data", *arguments]
        if "start" in arguments:
            command += ["-l", f"{self.folder}/log", "-o", options]
        user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **user)

    def start(self) -> None:
        """Make it and begin."""
        self.folder.mkdir()
        if os.geteuid() == 0:
            os.chown(self.folder, pwd.getpwnam("postgres").pw_uid, -1)
        self.run("initdb", "-s", "-o", "-A trust -U espalier")
        self.run("start", "-w")


@dataclass
class Service:
    """`espalier serve` on ports of its own."""

    home: Path
    runs: Path
    database: str
    port: int = field(default_factory=some_port)
    mlflow_port: int = field(default_factory=some_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, again and again until it answers: what it needs may be away."""
        command = [sys.executable, "-m", "search.cli", "serve", "--runs", str(self.runs)]
        command += ["--port", str(self.port), "--mlflow-port", str(self.mlflow_port)]
        command += ["--data-root", str(self.home / "data")]
        environment = os.environ | {"ESPALIER_SERVICE_DATABASE": self.database}
        environment |= {"OMP_NUM_THREADS": "1"}
        with (self.home / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def revive(self) -> None:
        """As a supervisor does: start it when it has ended."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer; None if there is none."""
        with suppress(httpx.HTTPError):
            return httpx.request(method, f"{self.url}{path}", timeout=120, **more)
        return None


# ---- what is launched


@dataclass
class Launches:
    """Searches that were asked for; `ids` of those that were answered, by key."""

    service: Service
    ids: dict[str, str] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def more(self) -> None:
        """Ask for what was not answered, and for another one if few wait."""
        answer = self.service.ask("GET", "/v1/searches", params={"state": "queued"})
        if answer is not None and answer.is_success and answer.json()["total"] < WAITING:
            self.open.append(str(uuid.uuid4()))
        self.settle()

    def settle(self) -> None:
        """Ask once more for each that was not answered."""
        for key in list(self.open):
            body = {**SETTINGS, "seed": len(self.ids), "name": f"s{len(self.ids)}"}
            answer = self.service.ask(
                "POST", "/v1/searches", json=body, headers={"Idempotency-Key": key}
            )
            if answer is not None and answer.is_success:
                self.ids[key] = answer.json()["id"]
                self.open.remove(key)


# ---- what is broken

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


# ---- what is found


def problems(service: Service, launches: Launches) -> list[str]:
    """Everything that was lost, is there twice, or failed."""
    answer = service.ask("GET", "/v1/searches", params={"limit": 200})
    assert answer is not None
    rows = {row["id"]: row for row in answer.json()["items"]}
    found = [
        f"{i}: {row['state']}, {row['reason']}"
        for i, row in rows.items()
        if row["state"] != "finished"
    ]
    found += [f"{i} is lost" for i in launches.ids.values() if i not in rows]
    found += [f"{i} was begun twice" for i in rows if i not in launches.ids.values()]
    twice = [i for i, count in Counter(launches.ids.values()).items() if count > 1]
    found += [f"{i} answers to two keys" for i in twice]
    for search_id, row in rows.items():
        if row["state"] == "finished":
            found += [f"{search_id}: {line}" for line in search_problems(service, search_id)]
    return found


def search_problems(service: Service, search_id: str) -> Iterator[str]:
    """Of one that has finished."""
    results = json.loads((service.runs / search_id / "results.json").read_text())
    keys = {outcome["key"] for outcome in (results["base_network"], *results["everything"])}
    answer = service.ask("GET", f"/v1/searches/{search_id}/architectures", params={"limit": 1000})
    assert answer is not None
    stored = [item["key"] for item in answer.json()["items"]]
    if sorted(stored) != sorted(keys):
        yield f"architectures are {sorted(stored)}, of its results {sorted(keys)}"
    trials = [o for o in results["everything"] if o["origin"] == "fine-tuned"]
    if len(trials) + len(results["failures"]) < SETTINGS["trials"]:
        yield f"{len(trials)} trials of {SETTINGS['trials']}: {results['failures']}"
    if (service.runs / search_id / "mlflow.spool").exists():
        yield "MLflow lacks a part of its record"
    runs = mlflow_runs(service, search_id)
    recorded = [tags["espalier.architecture"] for tags in runs if "espalier.architecture" in tags]
    yield from (f"no run of {key} in MLflow" for key in keys - set(recorded))
    count = Counter(tags["espalier.key"] for tags in runs)
    yield from (f"{number} runs of {key} in MLflow" for key, number in count.items() if number > 1)
    unfinished = {tags["espalier.key"] for tags in runs if tags["status"] == "RUNNING"}
    yield from (f"the run {key} never ended in MLflow" for key in unfinished)


def mlflow_runs(service: Service, search_id: str) -> list[dict[str, str]]:
    """The tags of all runs of a search, its status among them."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes a second

    client = MlflowClient(f"http://127.0.0.1:{service.mlflow_port}")
    experiment = client.get_experiment_by_name(search_id)
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return [{**run.data.tags, "status": run.info.status} for run in runs]


# ---- the run


@dataclass
class NetworkSummary:
    """What came of it."""

    breaks: Counter[str] = field(default_factory=Counter)
    num_searches: int = 0
    longest_still_seconds: float = 0.0
    seconds_to_end: float = 0.0
    problems: list[str] = field(default_factory=list)


class Pulse:
    """For how long at most nothing got on although something waited or ran."""

    def __init__(self, runs: Path) -> None:
        self._runs, self._size, self._since = runs, -1, time.monotonic()
        self.longest = 0.0

    def feel(self) -> None:
        """Look at the events of all searches: they grow while something gets on."""
        size = sum(file.stat().st_size for file in self._runs.glob("*/events.jsonl"))
        now = time.monotonic()
        self.longest = max(self.longest, now - self._since)
        if size != self._size:
            self._size, self._since = size, now


def chaos(minutes: float, pause: float, seed: int) -> NetworkSummary:
    """Break things for so many minutes, about every `pause` seconds, and look what is left."""
    chance, found = random.Random(seed), NetworkSummary()
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="espalier-chaos-")))
        home.chmod(0o755)
        may_fill = stack.enter_context(disk(home / "disk"))
        postgres = Postgres(home / "postgres")
        if postgres.url:
            postgres.start()
            stack.callback(postgres.run, "stop", "-m", "immediate")
        service = Service(home, home / "disk" / "runs", postgres.url)
        service.start()
        stack.callback(end, service)
        launches, pulse = Launches(service), Pulse(service.runs)
        possible = breaks(service, postgres, chance, may_fill=may_fill)
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            name = chance.choice(sorted(possible))
            say(f"{name}; {len(launches.ids)} launched, still for {pulse.longest:.0f} s at most")
            possible[name]()
            found.breaks[name] += 1
            rest = time.monotonic() + chance.expovariate(1 / pause)
            while time.monotonic() < rest:
                service.revive()
                launches.more()
                pulse.feel()
                time.sleep(1)
        began = time.monotonic()
        while launches.open or not all_over(service):
            service.revive()
            launches.settle()
            pulse.feel()
            time.sleep(1)
            if time.monotonic() - began > 1800:
                found.problems.append("not all were over half an hour later")
                break
        found.seconds_to_end = time.monotonic() - began
        found.num_searches, found.longest_still_seconds = len(launches.ids), pulse.longest
        found.problems += problems(service, launches)
        if found.problems:
            kept = Path(gettempdir()) / "espalier-chaos-service.log"
            shutil.copy(home / "service.log", kept)
            say(f"what the service printed is in {kept}")
    return found


def all_over(service: Service) -> bool:
    """Whether the service answers, and no search waits or runs."""
    totals = []
    for state in ("queued", "running"):
        answer = service.ask("GET", "/v1/searches", params={"state": state})
        if answer is None or not answer.is_success:
            return False
        totals.append(answer.json()["total"])
    return sum(totals) == 0


def end(service: Service) -> None:
    """The service and all it began."""
    for process in (
        *below(service.process.pid if service.process else -1),
        *with_words("search.cli resume", str(service.runs)),
    ):
        for one in (*below(process.pid), process):
            with suppress(psutil.Error):
                one.kill()
    if service.process is not None:
        service.process.kill()
        service.process.wait()


def say(line: str) -> None:
    """With the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> None:
    """Entry point; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=20.0, help="mean seconds between two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = chaos(options.minutes, options.pause, options.seed)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "mlflow"))
    print(
        f"\n`{' '.join(['python', *sys.argv])}` on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {packages}.\n"
    )
    for name, count in sorted(found.breaks.items()):
        print(f"- {name}: {count} times")
    print(f"- searches launched: {found.num_searches}")
    print(f"- nothing got on for at most {found.longest_still_seconds:.0f} s")
    print(f"- all were over {found.seconds_to_end:.0f} s after the last")
    print(f"- lost, twice or failed: {len(found.problems)}")
    for problem in found.problems:
        print(f"    - {problem}")
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
