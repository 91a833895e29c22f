"""Draw the ladder of families on the digits: docs/papers/family-digits.md and its picture.

    python examples/family_digits.py

Three searches of one network by the RNI method, with seeds 0, 1 and 2, each prune it to four
sizes. The shape that seed 0 found at a quarter of the budget is rescaled to four sizes (copycat)
beside the network narrowed by one factor (uniform), and every pruned shape is trained from
scratch, all with three seeds. It takes half an hour on two busy cores; stopped, the same command
goes on. The digits' counterpart of Crowley et al., "Pruning neural networks: is it time to nip it
in the bud?", fig. 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
SEEDS = (0, 1, 2)
PARAMS = ("15k", "30k", "60k", "120k")
LADDER = (1, 0.5, 0.25, 0.125)
HURT, KEY_BEFORE = 0.9, "score_before_pruning"
SHAPE = "digits-0/fine-tuned-2"
STUDY = "digits-family"
OF_KIND = {
    "fine-tuned": "pruned by RNI and fine-tuned, 20 + 20 epochs",
    "from-scratch": "those shapes, 40 epochs",
    "copycat": f"the shape of `{SHAPE}`, rescaled, 40 epochs",
    "uniform": "all its layers narrowed by one factor, 40 epochs",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="espalier-runs", help="folder of searches and records")
    parser.add_argument("--concurrency", type=int, default=2, help="networks trained at once")
    options = parser.parse_args()
    machine = ["--runs", options.runs, "--concurrency", str(options.concurrency)]
    begun = time.perf_counter()
    load = os.getloadavg()[0]
    for arguments in (*searches(), family()):
        print("espalier", shlex.join(arguments), flush=True)
        espalier = Path(sys.executable).with_name("espalier")
        subprocess.run([espalier, *arguments, *machine], check=True)
    minutes = (time.perf_counter() - begun) / 60
    study = Path(options.runs) / STUDY
    found = json.loads((study / "family.json").read_text())
    shutil.copyfile(study / "family.png", DOCS / "pictures" / "family-digits.png")
    text = "\n".join(page(found, f"{minutes:.0f} minutes", load))
    (DOCS / "papers" / "family-digits.md").write_text(f"{text}\n")
    print(f"written to {DOCS / 'papers' / 'family-digits.md'}")


def searches() -> Iterator[list[str]]:
    """What finds the shapes; members of these searches are trained as shortly as can be."""
    settings = (
        "--model digits-vgg --data digits --criterion rni --budget flops=40% --trials 4 "
        "--profiles 1 --by-products 0 --tempered-trials 0 --no-early-stopping "
        "--no-equal-compute-pairs --epochs 20 --fine-tune-epochs 20 --scratch-epochs 1"
    )
    rungs = [part for rung in LADDER for part in ("--ladder", str(rung))]
    for seed in SEEDS:
        yield ["search", *settings.split(), *rungs, "--seed", str(seed), "--name", f"digits-{seed}"]


def family() -> list[str]:
    """What trains the families, and draws."""
    budgets = [part for size in PARAMS for part in ("--budgets", f"params={size}")]
    included = [part for seed in SEEDS for part in ("--include", f"digits-{seed}")]
    training = ["--train", "--seeds", str(len(SEEDS)), "--scratch-epochs", "40", "--name", STUDY]
    return ["family", SHAPE, *budgets, *included, *training]


def page(found: dict[str, Any], taken: str, load: float) -> Iterator[str]:
    """The page's lines: the figure, how it came about, every number, and what it says."""
    yield "# The ladder on the digits"
    yield ""
    yield "![Test error against parameters, four kinds of networks](../pictures/family-digits.png)"
    yield ""
    yield "The digits' counterpart of fig. 1 of Crowley et al., \"Pruning neural networks: is it"
    yield 'time to nip it in the bud?", from one command, `python examples/family_digits.py`, which'
    yield "wrote this page, too. It ran"
    yield ""
    yield "```text"
    yield from (f"espalier {shlex.join(arguments)}" for arguments in (*searches(), family()))
    yield "```"
    yield ""
    yield "Test error in %, mean ± deviation (of a sample) over n runs; every run is measured once,"
    yield f"after its last epoch, on the same {found['num_test']:,} test images. No network was"
    yield "chosen by them; but the method, the sizes and which shape is rescaled were settled after"
    yield "a trial run of seed 0 whose test accuracies had been seen."
    yield ""
    yield "| kind | params | FLOPs | test error | n |\n| --- | ---: | ---: | ---: | ---: |"
    yield from rows(found["points"])
    yield ""
    yield from verdict(found["points"])
    yield ""
    yield "How to read it:"
    yield "- A fine-tuned point is the mean over three searches with seeds 0, 1, 2, whose shapes"
    yield "  and penalties differ; its size is a mean, too. Each of those shapes is trained from"
    yield "  scratch with seeds 0, 1, 2, so n = 9."
    yield "- Training is short: 18 steps an epoch at batch 64, for as many epochs in all as a"
    yield "  fine-tuned network has behind it."
    yield from unlucky(found["runs"])
    yield "- The searches' own networks from scratch (one epoch) are not shown."
    yield ""
    yield f"Measured on {datetime.date.today()}: {cores()} (CPU, float32), Python"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    yield f"{platform.python_version()}, {versions}. It took {taken}; the machine was at a load of"
    yield f"{load:.0f} when it began."


def rows(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table's rows, kind by kind."""
    before = ""
    for point in sorted(points, key=lambda p: (list(OF_KIND).index(p["kind"]), p["params"])):
        kind = point["kind"]
        name = f"{kind}: {OF_KIND[kind]}" if kind != before else ""
        before = kind
        yield (
            f"| {name} | {point['params'] / 1e3:.3g}k | {point['flops'] / 1e3:,.0f}k | "
            f"{in_percent(point)} | {point['num_runs']} |"
        )


def verdict(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Who has the lower mean error at equal size, pair by pair; clear beyond both deviations."""
    by_place = {(point["kind"], point["place"]): point for point in points}
    for first, second in (("copycat", "uniform"), ("from-scratch", "fine-tuned")):
        pairs = [
            (point, by_place[second, place])
            for (kind, place), point in by_place.items()
            if kind == first and (second, place) in by_place
        ]
        wins = sum(a["test_score"] > b["test_score"] for a, b in pairs)
        clear = sum(
            abs(a["test_score"] - b["test_score"]) > a["deviation"] + b["deviation"]
            for a, b in pairs
        )
        sizes = f"{wins} of {len(pairs)} sizes"
        yield f"- **{first} has the lower mean error than {second} at {sizes}**;"
        yield f"  the difference is larger than both deviations together at {clear} of them."


def unlucky(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Which fine-tuned networks had been hurt before they were pruned."""
    before = {
        f"{run['search']}/{run['outcome']['key']}": run["outcome"]["details"][KEY_BEFORE]
        for run in runs
        if run["kind"] == "fine-tuned"
    }
    hurt = [f"`{key}` ({value:.0%})" for key, value in before.items() if value < HURT]
    if hurt:
        yield f"- A penalty proposed too strong had left {len(hurt)} of {len(before)} networks"
        yield f"  below {HURT:.0%} of validation accuracy before they were pruned. They are in the"
        yield f"  means: {', '.join(hurt)}."


def in_percent(point: dict[str, Any]) -> str:
    return f"{100 * (1 - point['test_score']):.2f} ± {100 * point['deviation']:.2f}"


def cores() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


if __name__ == "__main__":
    main()
