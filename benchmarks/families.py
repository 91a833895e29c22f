"""Solve a ladder of budgets for ResNet-50, beside counting every candidate with fvcore.

    python benchmarks/families.py > benchmarks/results/families.md

One profile (random shares of 20 to 90 % of each group, seed 0), 20 budgets from 24 to 100 % of
its own FLOPs, on one thread, input 1×3×224×224. What is timed: finding all 20 members in closed
form; the same number of candidates counted by fvcore, from the time of one count of the largest
member; and building members beside the base network's constructor. All times are of the
processor, which other work on a shared machine changes less than those of the clock.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision

from copycat import Builder, WidthProfile
from copycat.families import BaseNetwork, Copycat, Member, UniformWidth, members
from copycat.families.width_series import WidthSeries
from pruning import Bound, Budget, measure_cost

PERCENT = range(24, 101, 4)
DIVISORS = (1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="how often each time is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    builder = Builder("torchvision.models:resnet50", {"weights": None})
    base = BaseNetwork.of(builder, torch.zeros(1, 3, 224, 224))
    profile = narrowed(base, random.Random(0))
    own = base.graph.cost(profile.widths).flops
    budgets = [Budget((Bound("flops", own * percent // 100),)) for percent in PERCENT]
    print_heading(options.runs)
    print("| divisor | ladder, ms | fastest, ms | candidates | fvcore, s | times faster |")
    print("| --- " * 6 + "|")
    found: list[Member] = []
    for divisor in DIVISORS:
        solve = functools.partial(members, base, Copycat(profile), budgets, divisor=divisor)
        times, found = timed(solve, options.runs)
        network = base.build(found[-1].shape)
        count = functools.partial(measure_cost, network, base.example_input)
        count_s = statistics.median(timed(count, 3)[0])
        candidates = num_priced(solve)
        print(
            f"| {divisor} | {spread(times)} | {min(times) * 1e3:.1f} | {candidates} | "
            f"{count_s * candidates:.0f} | {count_s * candidates / statistics.median(times):,.0f} |"
        )
    print_builds(base, found, options.runs)


def num_priced(solve: Callable[[], Any]) -> int:
    """How many candidates are priced in closed form."""
    with mock.patch.object(
        WidthSeries, "cost", autospec=True, side_effect=WidthSeries.cost
    ) as counting:
        solve()
    return counting.call_count


def narrowed(base: BaseNetwork, random_numbers: random.Random) -> WidthProfile:
    """Random shares of all groups that no shortcut holds together."""
    return WidthProfile(
        {
            group.name: max(1, round(group.width * random_numbers.uniform(0.2, 0.9)))
            for group in base.graph.prunable
            if not group.residual
        }
    )


def timed(work: Callable[[], Any], runs: int) -> tuple[list[float], Any]:
    """Seconds of processor time of every run, and the last result."""
    times, result = [], None
    for _ in range(runs):
        begun = time.process_time()
        result = work()
        times.append(time.process_time() - begun)
    return times, result


def spread(times: list[float]) -> str:
    """Median and deviation in milliseconds."""
    return f"{statistics.median(times) * 1e3:.1f} ± {statistics.stdev(times) * 1e3:.1f}"


def print_heading(runs: int) -> None:
    print("# Families of ResNet-50\n")
    print(f"Measured on {datetime.date.today()} by `python benchmarks/families.py`: ", end="")
    print(f"{processor()}, one thread, Python {platform.python_version()},")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {runs} runs each;")
    print("medians and standard deviations of processor time on a shared machine.\n")
    print(
        f"{len(PERCENT)} budgets from 24 to 100 % of the FLOPs of one profile. fvcore: the time of"
    )
    print("counting one candidate that is already built, times the number of candidates.\n")


def processor() -> str:
    """The name of the CPU and the number of its cores."""
    text = Path("/proc/cpuinfo").read_text()
    names = [
        line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model n")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def print_builds(base: BaseNetwork, found: list[Member], runs: int) -> None:
    print("\n| network | share of the base network's parameters | to build, ms |")
    print("| --- " * 3 + "|")
    constructor, _ = timed(base.builder, runs)
    print(f"| base network's constructor | 100 % | {spread(constructor)} |")
    (whole,) = members(base, UniformWidth(), [Budget.parse("flops=100%")])
    for member in (whole, *found[::-5]):
        times, _ = timed(lambda member=member: base.build(member.shape), runs)
        share = member.cost.params / base.graph.cost().params
        print(f"| {member.kind}, α = {member.parameter:.3f} | {share:.0%} | {spread(times)} |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
