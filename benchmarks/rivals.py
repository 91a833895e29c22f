"""Espalier's search beside other ways to smaller networks, at equal training compute.

    python benchmarks/rivals.py digits                # all rivals and seeds that are still missing
    python benchmarks/rivals.py digits --rival uniform --rival tpe --seed 0
    python benchmarks/rivals.py                       # only the page, from what is there

Every rival is a function of compute, budgets and seed that trains networks on the same splits by
the same recipe (see rivals_bench). What came of a rival with a seed is a JSON file below
benchmarks/results/rivals/, which is not made twice, so that an interrupted benchmark goes on where
it was; the page, benchmarks/results/rivals.md, is written from these files alone.

Torch-Pruning and ModelOpt are needed by their rivals only: see rivals_packages. CIFAR-10 (JPEG) is
read from the folder that --cifar10 names, with train/ and test/ in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rivals_bench import Bench, Setting, Times
from rivals_packages import fastnas, torch_pruning_magnitude, torch_pruning_taylor
from rivals_page import page
from rivals_search import Looking, espalier
from rivals_shapes import nsga2, random_widths, tpe, uniform

from search.config.data_config import DataConfig

RESULTS = Path(__file__).parent / "results"

Rival = Callable[[Bench], None]
RIVALS: dict[str, Rival] = {
    "espalier": espalier,
    "uniform": uniform,
    "uniform-4x": partial(uniform, times_as_long=4),
    "uniform-8x": partial(uniform, times_as_long=8),
    "random": random_widths,
    "nsga2": nsga2,
    "tpe": tpe,
    "torch-pruning-magnitude": torch_pruning_magnitude,
    "torch-pruning-taylor": torch_pruning_taylor,
    "fastnas": fastnas,
    "espalier-untrained": partial(
        espalier,
        looking=Looking((0.0,), scope="uniform", is_trained=False, times_as_long=4),
    ),
    "espalier-no-descent": partial(espalier, looking=Looking(descend=False)),
    "espalier-no-costs": partial(espalier, looking=Looking(cost_exponent=(0.0,))),
    "espalier-uniform": partial(espalier, looking=Looking(cost_exponent=(0.0,), scope="uniform")),
}
"""The last three are the ablation of `espalier`, a part of which each does without."""


def settings(cifar10: str) -> dict[str, Setting]:
    """By name; `smoke` tries the benchmark out."""
    images = DataConfig(f"imagefolder:{cifar10}", image_size=16, limit_train=3000)
    low, middle = (0.06, 0.03, 0.015, 0.0075), (0.6, 0.4, 0.25, 0.15)
    listed = (
        Setting("smoke", "digits-vgg", DataConfig(limit_train=150), low[:2], 1, 1, 2.5, 2),
        Setting("digits", "digits-vgg", DataConfig(), low, 12, 4, 1, 5),
        Setting("cifar10-vgg", "digits-vgg", images, low, 8, 4, 1.5, 3),
        Setting("cifar10-resnet20", "resnet20", images, middle, 8, 4, 4, 3),
    )
    return {setting.name: setting for setting in listed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(settings(""))
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(names)}")
    parser.add_argument("--rival", action="append", choices=list(RIVALS), help="by default all")
    parser.add_argument("--seed", action="append", type=int, help="by default all of the setting")
    parser.add_argument("--minutes", type=float, help="begin no further run after so many")
    parser.add_argument("--cifar10", default=".data/cifar10-jpeg", help="folder of the images")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known = settings(options.cifar10)
    last = time.monotonic() + 60 * (options.minutes or math.inf)
    for name in options.settings:
        setting = known[name]
        for seed in options.seed or range(setting.num_seeds):
            for rival in options.rival or RIVALS:
                if time.monotonic() < last:
                    run_once(options.results / "rivals" / name, setting, rival, seed)
    (options.results / "rivals.md").write_text(page(options.results / "rivals"))


def run_once(folder: Path, setting: Setting, rival: str, seed: int) -> None:
    """Run a rival with a seed and store what comes of it, unless that is there."""
    file = folder / f"{rival}-{seed}.json"
    if file.exists():
        if json.loads(file.read_text())["setting"] != setting.to_mapping():
            raise SystemExit(f"{file} is of another setting {setting.name}: remove it, or go back")
        return
    print(f"{setting.name}: {rival}, seed {seed}", file=sys.stderr, flush=True)
    begun, processor = time.perf_counter(), time.process_time()
    bench = Bench(setting, seed)
    RIVALS[rival](bench)
    times = Times(
        time.perf_counter() - begun,
        bench.seconds_training,
        None if rival.startswith("espalier") else time.process_time() - processor,
    )
    assert bench.spent <= bench.limit, (
        f"{rival} spent {bench.spent / bench.limit:.2f} of the compute"
    )
    content = {"rival": rival} | bench.to_mapping(times)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    os.replace(unfinished, file)


if __name__ == "__main__":
    main()
