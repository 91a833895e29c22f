"""The service that `chaos.py` breaks, and what it stands on: a small disk and a PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from mlflow_server.serve import free_port

DISK_MB = 400


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

    def is_idle(self) -> bool:
        """Whether it answers, and no search waits or runs."""
        totals = []
        for state in ("queued", "running"):
            answer = self.ask("GET", "/v1/searches", params={"state": state})
            if answer is None or not answer.is_success:
                return False
            totals.append(answer.json()["total"])
        return sum(totals) == 0

    def end(self) -> None:
        """It, and all that it began."""
        for process in (
            *below(self.process.pid if self.process else -1),
            *with_words("search.cli resume", str(self.runs)),
        ):
            for one in (*below(process.pid), process):
                with suppress(psutil.Error):
                    one.kill()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
