"""How long the command line takes before it does anything, and a search before it trains.

    python benchmarks/startup.py              # 10 processes of each kind, in turn
    python benchmarks/startup.py --before DIR # searches by the checkout in DIR as well, in turn

Processor and wall-clock time of whole processes, beside an interpreter that does nothing; and of
searches up to their first training step, beside Ray alone up to the first line of its first trial.
Writes benchmarks/results/startup.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import psutil

RESULTS = Path(__file__).parent / "results" / "startup.md"
PYTHON = sys.executable
ESPALIER = (PYTHON, "-m", "search.cli")
COMMANDS: Mapping[str, Sequence[str]] = {
    "python -c pass": (PYTHON, "-c", "pass"),
    "python -c 'import search'": (PYTHON, "-c", "import search"),
    "espalier --help": (*ESPALIER, "--help"),
    "espalier search --help": (*ESPALIER, "search", "--help"),
    "espalier list": (*ESPALIER, "list", "--runs", "nowhere"),
    "python -c 'import torch'": (PYTHON, "-c", "import torch"),
}

RAY = "Ray alone"
SEARCH = (
    *(*ESPALIER, "search", "--model", "stamped:Stamped", "--trials", "2", "--epochs", "1"),
    *("--concurrency", "2", "--cpus-per-trial", "1", "--device", "cpu", "--limit-train", "500"),
)
QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0"}

NETWORK = '''
"""The digits network; its first training step in a worker leaves the file STEP."""

from pathlib import Path

import torch
from torch import nn

from search.models import digits_vgg

STEP = Path(__file__).with_name("STEP")


class Stamped(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.network = digits_vgg(num_classes, in_channels)

    def forward(self, x):
        is_step = self.training and torch.is_grad_enabled() and x.device.type != "meta"
        if is_step and len(x) > 2:  # a dry run has two images
            STEP.touch()
        return self.network(x)
'''

ALONE = '''
"""Ray as a search uses it, without the search."""

from pathlib import Path

import ray
from ray import tune

STEP = Path(__file__).with_name("STEP")


def trial(config):
    STEP.touch()


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}), run_config=tune.RunConfig(storage_path=str(STEP.parent))
).fit()
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    searches = {name: SEARCH for name in ("before", "now") if name == "now" or arguments.before}
    roots = {"before": arguments.before, "now": Path(__file__).parents[1]}
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in (RAY, *searches)}
    for number in range(repeats + 1):
        for name, seconds in starts.items():
            command = searches.get(name, (PYTHON, "alone.py"))
            one = seconds_to_first_step(command, roots.get(name, roots["now"]))
            if number:  # the first compiles what it imports
                seconds.append(one)
    for command in COMMANDS.values():  # so that no process compiles what it imports
        seconds_of(command)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            rows[name].append(seconds_of(command))
    page = written(rows, starts, repeats)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


def seconds_of(command: Sequence[str]) -> tuple[float, float]:
    """Processor and wall-clock seconds of a process that runs the command and succeeds."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall


def seconds_to_first_step(command: Sequence[str], root: Path) -> tuple[float, float]:
    """Processor seconds of all its processes, and wall-clock ones, until the file STEP is there.

    root: the checkout whose packages it imports.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stamped.py").write_text(NETWORK)
        (folder / "alone.py").write_text(ALONE)
        environment = {**os.environ, **QUIET, "PYTHONPATH": f"{root}{os.pathsep}{folder}"}
        started = time.perf_counter()
        with (folder / "log").open("w") as log:
            process = psutil.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, process_group=0
            )
        while not (folder / "STEP").exists():
            if process.poll() is not None:
                raise SystemExit(f"no step was made: {(folder / 'log').read_text()}")
            time.sleep(0.01)
        wall = time.perf_counter() - started
        tree = [process, *process.children(recursive=True)]
        processor = sum(map(_processor_seconds, tree))
        process.terminate()
        process.wait()
        psutil.wait_procs(tree, timeout=60)
    return processor, wall


def _processor_seconds(process: psutil.Process) -> float:
    """Its own and those of children that have ended."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system
    return 0.0


def written(
    rows: Mapping[str, Sequence[tuple[float, float]]],
    starts: Mapping[str, Sequence[tuple[float, float]]],
    repeats: int,
) -> str:
    """The page with the results."""
    names = ("torch", "ray", "mlflow", "click", "pydantic")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    lines = [
        "# Starting the command line",
        "",
        f"`python benchmarks/startup.py --repeats {repeats}` on {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, {packages}; the machine's "
        f"load was {os.getloadavg()[1]:.1f} at the end (a mean of 5 minutes). Seconds of whole "
        "processes, which ran in turn after one of each kind that does not count: mean ± "
        "deviation of processor time and of wall-clock time, and the shortest of the latter.",
        "",
        *table(rows),
        "",
        "## Up to the first training step",
        "",
        f"`espalier {' '.join(SEARCH[3:])}` in a new folder, from the command to the first step of "
        "its first trial in a worker, and Ray alone, from the command to the first line of a "
        "trial of Tune's with as many workers; all in turn, after one of each that does not count. "
        "Processor seconds are those of all its processes then. In one line each: mean ± "
        "deviation over the runs of this machine, which did other work meanwhile.",
        "",
        *table(starts),
    ]
    for name in starts:
        if name != RAY:
            ratios = [own[1] / ray[1] for own, ray in zip(starts[name], starts[RAY], strict=True)]
            lines += ["", f"Search {name}, wall clock: {mean(ratios):.2f} ± {stdev(ratios):.2f}"]
            lines[-1] += f" times Ray's own start (n = {len(ratios)}, paired)."
    return "\n".join([*lines, ""])


def table(rows: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """A line for each kind of process."""
    lines = ["| | n | processor | wall clock | shortest |", "| --- | --- | --- | --- | --- |"]
    for name, seconds in rows.items():
        processor, wall = zip(*seconds, strict=True)
        lines.append(
            f"| `{name}` | {len(seconds)} | {mean(processor):.3f} ± {stdev(processor):.3f} | "
            f"{mean(wall):.3f} ± {stdev(wall):.3f} | {min(wall):.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
