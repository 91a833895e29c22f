"""Kills a small search again and again, and counts what is lost.

A search on the digits runs once undisturbed, as the control. Then the same search is begun again,
and at random moments its driver or one of its workers is killed with SIGKILL; a killed driver is
followed by `espalier resume`. Printed are, against the control: trials lost and duplicated,
architectures missing, epochs repeated (every training step leaves a byte in a file, also one of
an epoch that was not finished), points of MLflow's curves that are missing or twice, and whether
the front is the same.

    python benchmarks/interruption.py --kills 20 --concurrency 1
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import torch
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

NETWORK = '''
"""The digits network; every training step leaves a byte in the file STEPS of its folder."""

import os
from pathlib import Path

import torch
from torch import nn

from search.models import digits_vgg

STEPS = Path(__file__).with_name("steps")


class Counted(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.network = digits_vgg(num_classes, in_channels)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and x.device.type != "meta":
            file = os.open(STEPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, b".")
            os.close(file)
        return self.network(x)
'''

NAME, BATCH, IMAGES = "interrupted", 32, 1000
EPOCHS = 12
_SHARE_OF_STARTS, _START_SECONDS = 0.25, 10.0


@dataclass(frozen=True)
class Place:
    """A folder in which one search runs."""

    folder: Path

    @property
    def search(self) -> Path:
        """The folder of the search."""
        return self.folder / "runs" / NAME

    @property
    def steps(self) -> int:
        """Training steps made so far."""
        file = self.folder / "steps"
        return file.stat().st_size if file.exists() else 0

    def prepare(self) -> None:
        """Put the network there."""
        self.folder.mkdir(parents=True)
        (self.folder / "counted.py").write_text(NETWORK)

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Run `espalier` there."""
        log = (self.folder / "log").open("ab")
        command = [str(Path(sys.executable).with_name("espalier")), *arguments, "--runs", "runs"]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )


def search_arguments(concurrency: int) -> list[str]:
    """The search: six trials, their by-products, families, two tempered shapes."""
    settings = {
        "model": "counted:Counted",
        "budget": "flops=10%",
        "trials": 6,
        "epochs": EPOCHS,
        "fine-tune-epochs": EPOCHS // 2,
        "scratch-epochs": EPOCHS // 2,
        "tempered-trials": 2,
        "batch-size": BATCH,
        "limit-train": IMAGES,
        "concurrency": concurrency,
        "cpus-per-trial": 1,
        "device": "cpu",
        "name": NAME,
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return ["search", *flags]


def resume_arguments(concurrency: int) -> list[str]:
    """Going on with it."""
    shares = ["--concurrency", str(concurrency), "--cpus-per-trial", "1"]
    return ["resume", NAME, "--trust", "counted", *shares]


def interrupted(
    place: Place, concurrency: int, kills: int, longest_wait: float, generator: random.Random
) -> Counter:
    """Run the search to its end with so many kills on the way; who was killed how often."""
    killed: Counter = Counter()
    process = place.start(search_arguments(concurrency))
    while True:
        if killed.total() < kills and _comes_up(process, place, longest_wait, generator):
            killed[_kill_one(process, generator)] += 1
            if process.poll() is None:
                continue
        if process.wait() == 0:
            return killed
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the search ended by itself ({process.returncode}): see its log")
        was_begun = (place.search / "search.json").exists()
        process = place.start((resume_arguments if was_begun else search_arguments)(concurrency))


def _comes_up(
    process: subprocess.Popen[bytes], place: Place, longest_wait: float, generator: random.Random
) -> bool:
    """Wait for the moment of the next kill; whether the search has not ended before.

    One in four falls on a start; the others on the work, after a first training step of a worker.
    """
    if generator.random() < _SHARE_OF_STARTS:
        return not _ended_within(process, generator.uniform(0.0, _START_SECONDS))
    before = place.steps
    while place.steps == before or not _workers(process.pid):
        if _ended_within(process, 0.05):
            return False
    return not _ended_within(process, generator.uniform(0.0, longest_wait))


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_one(driver: subprocess.Popen[bytes], generator: random.Random) -> str:
    """Kill the driver, or one of its workers that is at work."""
    workers = _workers(driver.pid)
    if workers and generator.random() < 0.5:
        generator.choice(workers).kill()
        return "worker"
    driver.kill()
    driver.wait()
    return "driver"


def _workers(driver: int) -> list[psutil.Process]:
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if _title(process).startswith("ray::ImplicitFunc")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def trials(place: Place) -> list[optuna.trial.FrozenTrial]:
    """As the study has them."""
    storage = JournalStorage(JournalFileBackend(str(place.search / "study.journal")))
    return optuna.load_study(study_name=NAME, storage=storage).trials


def results(place: Place) -> dict[str, list[dict[str, object]]]:
    """What the search found."""
    return json.loads((place.search / "results.json").read_text())


def curve_points(place: Place) -> dict[tuple[str, str], list[int]]:
    """Steps of every curve that MLflow has, by run and metric."""
    client = MlflowClient(tracking_uri=f"sqlite:///{place.folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME)
    found: dict[tuple[str, str], list[int]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        for metric in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, metric)
            found[run.info.run_name, metric] = sorted(point.step for point in history)
    return found


def report(control: Place, disturbed: Place, killed: Counter, concurrency: int) -> list[str]:
    """Lines of Markdown: what the kills did."""
    own, others = trials(disturbed), trials(control)
    finished = [trial for trial in own if trial.state.is_finished()]
    params = Counter(str(sorted(trial.params.items())) for trial in own)
    keys, wanted = ({o["key"] for o in results(p)["everything"]} for p in (disturbed, control))
    per_epoch = -(-int(IMAGES * 0.8) // BATCH)
    repeated = (disturbed.steps - control.steps) / per_epoch
    curves, expected = curve_points(disturbed), curve_points(control)
    twice = sum(len(steps) - len(set(steps)) for steps in curves.values())
    missing = sum(len(set(steps) - set(curves.get(name, []))) for name, steps in expected.items())
    front_equal = results(disturbed)["front"] == results(control)["front"]
    rows = [
        ("kills", f"{killed.total()} ({killed['driver']} drivers, {killed['worker']} workers)"),
        ("trials lost", len(others) - len(finished)),
        ("trials duplicated", sum(count - 1 for count in params.values())),
        ("trials still running", len(own) - len(finished)),
        ("architectures in both", f"{len(keys & wanted)} of {len(wanted)}"),
        ("epochs repeated", f"{repeated:.2f} ({repeated / max(1, killed.total()):.2f} a kill)"),
        ("points of curves missing", missing),
        ("points of curves twice", twice),
        ("front equal to the control's", "yes" if front_equal else "no"),
    ]
    table = [f"| {name} | {value} |" for name, value in rows]
    return [f"| concurrency {concurrency} | |", "| --- | --- |", *table]


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="interruption-"))
    control, disturbed = Place(folder / "control"), Place(folder / "disturbed")
    for place in (control, disturbed):
        place.prepare()
    began = time.monotonic()
    if control.start(search_arguments(options.concurrency)).wait() != 0:
        raise SystemExit(f"the control failed: see {control.folder / 'log'}")
    undisturbed = time.monotonic() - began
    generator = random.Random(options.seed)
    longest_wait = (undisturbed - _START_SECONDS) / options.kills  # so that all of them fit in
    killed = interrupted(disturbed, options.concurrency, options.kills, longest_wait, generator)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, CPU, seed {options.seed};"
    )
    print(f"the control took {undisturbed:.0f} s, {control.steps} training steps.\n")
    print("\n".join(report(control, disturbed, killed, options.concurrency)))


if __name__ == "__main__":
    main()
