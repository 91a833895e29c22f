"""A real service in a process of its own, for tests that kill things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from ports import free_port

SETTINGS: Mapping[str, Any] = {
    "model": "digits-vgg",
    "budget": ["flops=10%"],
    "data": {"source": "digits", "limit_train": 600},
    "training": {"epochs": 10, "fine_tune_epochs": 5, "scratch_epochs": 5, "batch_size": 32},
    "study": {"tempered_trials": 0, "by_products": 0, "early_stopping": False},
    "trials": 3,
    "ladder": [1.0],
    "profiles": 1,
    "equal_compute_pairs": False,
    "concurrency": 1,
    "resources": {"cpus_per_trial": 1},
}
"""A search of some twenty seconds."""

NETWORK = """
import time
from pathlib import Path

import torch

from search.models import digits_vgg

FOLDER = Path(__file__).parent


class Stepwise(torch.nn.Module):
    "While there is a file `held`, a minibatch of training takes a file `permit` or waits for one."

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.network = digits_vgg(num_classes, in_channels)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and x.device.type != "meta":
            while (FOLDER / "held").exists():
                try:
                    (FOLDER / "permit").unlink()
                except FileNotFoundError:
                    time.sleep(0.02)
                else:
                    break
        return self.network(x)
"""

STEPWISE: Mapping[str, Any] = {
    **SETTINGS,
    "model": "stepwise:Stepwise",
    "data": {"source": "digits", "limit_train": 120},
    "training": {"epochs": 4, "fine_tune_epochs": 2, "scratch_epochs": 2, "batch_size": 32},
}
"""A search that gets on only by `Service.get_on`, until it is released: see Service.hold."""

ESPALIER = ("-m", "search.cli")
WITHOUT_RAY = (str(Path(__file__).with_name("without_ray.py")),)
"""Programs for the command line."""

ANSWER_SECONDS = 120.0
"""So long an answer is waited for: httpx's five seconds are few on a machine that is busy."""


def eventually(condition: Callable[[], Any], seconds: float = 120, what: str = "it") -> Any:
    """What the condition gives once that is true; AssertionError if it does not come true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)
    return found


request = partial(httpx.request, verify=False)
"""A service here speaks plain HTTP: to read certificates would take 33 ms for every request."""


def with_default_signals() -> None:
    """In a child process, before its program begins: it hears Ctrl-C and the end of its terminal.

    A test run in the background ignores SIGINT, one under nohup SIGHUP, and so would its children.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Service:
    """`espalier serve` on ports of its own; restarted on the same ones.

    further: flags.  surroundings: all variables of its environment but those that it needs.
    program: what it and its searches are started by.
    """

    runs: Path
    further: tuple[str, ...] = ()
    surroundings: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    program: tuple[str, ...] = ESPALIER
    port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def _variables(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(self.runs.parent), os.environ.get("PYTHONPATH")]))
        return {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def hold(self) -> None:
        """Let searches by STEPWISE stand still in the middle of an epoch, whatever else happens."""
        (self.runs.parent / "stepwise.py").write_text(NETWORK)
        (self.runs.parent / "held").touch()

    def release(self) -> None:
        """Let them run to their end."""
        (self.runs.parent / "held").unlink()

    def start(self) -> None:
        """Start it and wait until searches can be launched."""
        log = self.runs.parent / "service.log"
        command = [
            *(sys.executable, *self.program, "serve", "--runs", str(self.runs)),
            *("--port", str(self.port), "--mlflow-port", str(self.mlflow_port)),
            *("--data-root", str(self.runs.parent / "data"), *self.further),
        ]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=with_default_signals,  # noqa: PLW1509
                env={**self.surroundings, **self._variables},
            )
        eventually(self.is_ready, what=f"the service is ready ({log.read_text()[-500:]})")

    def is_ready(self) -> bool:
        """Whether searches can be launched."""
        assert self.process is not None
        assert self.process.poll() is None, (self.runs.parent / "service.log").read_text()
        try:
            return request("GET", f"{self.url}/readyz", timeout=10).is_success
        except httpx.HTTPError:
            return False

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process is not None and self.is_alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """What it answers, which must be a success; a busy machine takes its time."""
        answer = request(method, f"{self.url}{path}", json=content, timeout=ANSWER_SECONDS)
        assert answer.is_success, answer.text
        return answer.json()

    def launch(self, **changes: Any) -> str:
        launched: str = self.ask("POST", "/v1/searches", {**SETTINGS, **changes})["id"]
        return launched

    def search(self, search_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self.ask("GET", f"/v1/searches/{search_id}")
        return row

    def epochs(self, search_id: str) -> int:
        """Done so far."""
        return (self.search(search_id)["progress"] or {}).get("epochs", 0)

    def wait_for(self, search_id: str, state: str, seconds: float = 300) -> dict[str, Any]:
        """The search once it is in this state."""

        def is_there() -> dict[str, Any] | None:
            found = self.search(search_id)
            over = found["state"] in ("finished", "failed", "stopped")
            assert found["state"] == state or not over, f"{found['state']}: {found['reason']}"
            return found if found["state"] == state else None

        found: dict[str, Any] = eventually(is_there, seconds, f"{search_id} is {state}")
        return found

    def get_on(self, search_id: str, num_epochs: int = 3) -> None:
        """Wait until it is so many epochs further than now."""
        before = self.epochs(search_id)

        def is_further() -> bool:
            (self.runs.parent / "permit").touch()
            assert self.search(search_id)["state"] in ("queued", "running")
            return self.epochs(search_id) >= before + num_epochs

        eventually(is_further, 240, f"{search_id} gets on")


@contextmanager
def service(folder: Path, *further: str, program: tuple[str, ...] = ESPALIER) -> Iterator[Service]:
    """A service until the end of the block; its searches and its MLflow end with it."""
    found = Service(folder / "runs", further, program=program)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def search_processes(runs: Path) -> list[psutil.Process]:
    """The processes that perform searches of this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "resume" in line[2:4] and str(runs) in line:
            found.append(process)
    return found


def mlflow_processes(runs: Path, port: int) -> list[psutil.Process]:
    """MLflow's server of this folder, and its workers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "mlflow" in line and str(port) in line:
            found += [process, *process.children(recursive=True)]
    return found
