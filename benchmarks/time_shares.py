"""Where the time of a search goes: the share of its workers' time inside of training steps.

A search on generated images of 3×32×32 runs once, with as many trials at a time as there are cores
and one thread each. How many epochs a trial has follows from how long one takes here, so that
trials last about as long as asked for. Printed are the shares of all workers' time, which the
search itself tells (`espalier list --json`), and the wall time from the command to its end.

    python benchmarks/time_shares.py --trial-seconds 60 --trials 4
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from copycat.latency import processor_name
from search.results.wall_time import shares
from search.system.machine import usable_cores

DATA = '''
"""Images of noise in ten classes, so that nothing has to be there."""

import torch
from torch.utils.data import TensorDataset


def splits():
    generator = torch.Generator().manual_seed(0)

    def part(count):
        images = torch.randn(count, 3, 32, 32, generator=generator)
        return TensorDataset(images, torch.arange(count) % 10)

    return part({images}), part(200)
'''

NAME = "shares"


def search_command(folder: Path, options: argparse.Namespace, epochs: int, name: str) -> list[str]:
    """The search: so many trials, whose epochs are parted two to one, and no families."""
    settings = {
        "data": "noise:splits",
        "model": options.model,
        "trials": options.trials,
        "epochs": max(1, 2 * epochs // 3),
        "fine-tune-epochs": max(1, epochs // 3),
        "scratch-epochs": max(1, epochs // 3),
        "by-products": 0,
        "tempered-trials": 0,
        "candidate-epochs": 0,
        "batch-size": 64,
        "budget": "flops=50%",
        "concurrency": options.concurrency,
        "cpus-per-trial": 1,
        "device": "cpu",
        "name": name,
        "runs": folder / "runs",
    }
    flags = [text for flag, value in settings.items() for text in (f"--{flag}", str(value))]
    command = [str(Path(sys.executable).with_name("espalier")), "search", *flags]
    return [*command, "--no-early-stopping"]


def run(folder: Path, options: argparse.Namespace, epochs: int, name: str) -> float:
    """Perform a search; seconds from the command to its end."""
    began = time.monotonic()
    with (folder / f"{name}.log").open("wb") as log:
        command = search_command(folder, options, epochs, name)
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"the search failed: see {folder / name}.log")
    return time.monotonic() - began


def seconds_of_epoch(folder: Path, name: str) -> float:
    """The mean, of all that a search went through."""
    lines = (folder / "runs" / name / "events.jsonl").read_text().splitlines()
    records = [r for line in lines for r in json.loads(line).get("records", ())]
    return sum(sum(record["seconds"].values()) for record in records) / len(records)


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial-seconds", type=float, default=60.0)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--concurrency", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="time-shares-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "noise.py").write_text(DATA.replace("{images}", str(options.images)))
    run(folder, options, 3, "trial-run")
    epochs = max(3, round(options.trial_seconds / seconds_of_epoch(folder, "trial-run")))
    wall = run(folder, options, epochs, NAME)
    results = json.loads((folder / "runs" / NAME / "results.json").read_text())
    seconds = results["breakdown"]["wall_seconds"]
    print(
        f"{processor_name('cpu')}, Python {platform.python_version()}, torch {torch.__version__}; "
        f"{options.trials} trials of {epochs} epochs, {options.concurrency} at a time; "
        f"{wall:.0f} s from the command to its end.\n"
    )
    print("| | seconds of workers | share |\n| --- | --- | --- |")
    for name, share in shares(seconds).items():
        print(f"| {name} | {seconds[name]:.1f} | {100 * share:.1f} % |")


if __name__ == "__main__":
    main()
