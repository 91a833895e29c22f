"""How long the command line takes before it does anything.

    python benchmarks/startup.py              # 10 processes of each kind, in turn

Processor and wall-clock time of whole processes, beside an interpreter that does nothing.
Writes benchmarks/results/startup.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    for command in COMMANDS.values():  # so that no process compiles what it imports
        seconds_of(command)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            rows[name].append(seconds_of(command))
    page = written(rows, repeats)
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


def written(rows: Mapping[str, Sequence[tuple[float, float]]], repeats: int) -> str:
    """The page with the results."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "click", "pydantic"))
    lines = [
        "# Starting the command line",
        "",
        f"`python benchmarks/startup.py --repeats {repeats}` on {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, {packages}; the machine's "
        f"load was {os.getloadavg()[1]:.1f} at the end (a mean of 5 minutes). Seconds of whole "
        "processes, which ran in turn after one of each kind that does not count: mean ± "
        "deviation of processor time and of wall-clock time, and the shortest of the latter.",
        "",
        "| | n | processor | wall clock | shortest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, seconds in rows.items():
        processor, wall = zip(*seconds, strict=True)
        lines.append(
            f"| `{name}` | {len(seconds)} | {mean(processor):.3f} ± {stdev(processor):.3f} | "
            f"{mean(wall):.3f} ± {stdev(wall):.3f} | {min(wall):.3f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
