"""Trace, prune and price every torchvision classifier, beside Torch-Pruning.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/channel_graph.py > benchmarks/results/channel_graph.md

Each network is handled in a process of its own, both tools in turn in that same process, on one
thread, input 1×3×224×224 (299 for inception_v3): trace it, remove half the channels of every
group that can lose some, and price it. Times are of the processor, the medians of up to three
turns, of which one is begun as long as the process has used less than 12 s; Torch-Pruning is
stopped when one of its turns has taken 60 s. Memory is the growth of the peak resident set while
tracing in the first turn; a network of six layers is traced first, so that what torch imports and
caches at the first trace of a process is told apart. Networks above 150 M parameters are left out
unless --all is given.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

import pruning

LARGEST = 150_000_000
MEMORY_LIMIT = 20 << 30
TIME_LIMIT_S = 600
THEIR_TIME_LIMIT_S = 60
NUM_TURNS = 3
TURNS_BEGIN_WITHIN_S = 12
NUM_PRICES = 200
TOOLS = ("ours", "theirs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="torchvision names; all if none is given")
    parser.add_argument("--all", action="store_true", help="networks of any size")
    parser.add_argument("--rows", type=Path, help="file of measured rows, to go on with")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child)
        return
    names = options.names or [
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if options.all or num_params(name) <= LARGEST
    ]
    rows = rows_of(options.rows)
    for name in names:
        if name not in rows:
            rows[name] = run_child(name)
            if options.rows is not None:
                with options.rows.open("a") as stream:
                    stream.write(json.dumps(rows[name]) + "\n")
    print_table([rows[name] for name in names])


def rows_of(file: Path | None) -> dict[str, dict[str, Any]]:
    """What was measured before, by the names of networks."""
    if file is None or not file.exists():
        return {}
    return {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}


def run_child(name: str) -> dict[str, Any]:
    """All measurements of one network; what was printed before a crash is kept."""
    print(name, file=sys.stderr)
    try:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--child", name],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
        output, ending = child.stdout, f"ended with status {child.returncode}"
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode()
        ending = f"over {TIME_LIMIT_S} s"
    result: dict[str, Any] = {"name": name}
    for line in output.splitlines():
        result |= json.loads(line)
    for tool in TOOLS:
        result.setdefault(f"{tool}_outcome", ending)
    return result


def measure(name: str) -> None:
    """Print one JSON object per finished measurement."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    signal.signal(signal.SIGPROF, stop)
    example = torch.randn(1, 3, *[299 if name == "inception_v3" else 224] * 2)
    model = make(name)
    tools: dict[str, Callable[[nn.Module, torch.Tensor], dict[str, Any]]]
    tools = {"ours": measure_ours, "theirs": measure_theirs}
    times: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    for turn in range(NUM_TURNS):
        if turn and time.process_time() > TURNS_BEGIN_WITHIN_S:
            return
        for tool in list(tools):
            try:
                result = tools[tool](copy.deepcopy(model), example)
                times[tool].append((result.pop("trace_ms"), result.pop("remove_ms")))
                result = (result if turn == 0 else {}) | {"outcome": "ok"} | summed_up(times[tool])
            except Exception as error:  # a benchmark reports whatever a tool raises
                text = " ".join(str(error).split())[:60]
                result = {"outcome": f"{type(error).__name__}: {text}"}
                del tools[tool]
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            result = {f"{tool}_{key}": value for key, value in result.items()}
            print(json.dumps(result), flush=True)


def summed_up(times: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians over turns, and how far apart the fastest and the slowest are, as a share."""
    both = [trace + remove for trace, remove in times]
    return {
        "trace_ms": statistics.median(trace for trace, _ in times),
        "remove_ms": statistics.median(remove for _, remove in times),
        "both_ms": statistics.median(both),
        "turns": len(times),
        "spread": (max(both) - min(both)) / statistics.median(both),
    }


def stop(*_: object) -> None:
    raise TimeoutError(f"over {THEIR_TIME_LIMIT_S} s")


def measure_ours(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    _, _, one_time = timed(lambda: pruning.trace(tiny(), example))
    graph, trace_ms, memory = timed(lambda: pruning.trace(model, example))
    plan = half_of(graph)
    smaller, remove_ms, _ = timed(lambda: pruning.remove_channels(model, graph, plan))
    with torch.no_grad():
        difference = (smaller(example) - gated(model, graph, plan)(example)).abs().max()
    cost = graph.cost(plan.widths)
    counted, count_ms, _ = timed(lambda: pruning.measure_cost(smaller, example))
    begun = time.process_time()
    for _ in range(NUM_PRICES):
        graph.cost(plan.widths)
    price_us = (time.process_time() - begun) / NUM_PRICES * 1e6
    return {
        "groups": len(graph.groups),
        "prunable": len(graph.prunable),
        "trace_ms": trace_ms,
        "remove_ms": remove_ms,
        "memory_mb": memory,
        "one_time_mb": one_time,
        "model_mb": (graph.cost().weight_bytes or 0) / 1e6,
        "difference": float(difference / smaller(example).abs().max()),
        "flops_left": cost.flops / graph.cost().flops,
        "is_priced_exactly": cost == counted,
        "notes": list(cost.notes),
        "price_us": price_us,
        "count_ms": count_ms,
    }


def measure_theirs(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    import torch_pruning as tp  # noqa: PLC0415 - an extra; without it this column says so

    signal.setitimer(signal.ITIMER_PROF, THEIR_TIME_LIMIT_S)  # of processor time
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    pruner, trace_ms, memory = timed(
        lambda: tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[last],
        )
    )
    num_groups = len(list(pruner.DG.get_all_groups(ignored_layers=[last])))
    _, remove_ms, _ = timed(pruner.step)
    model(example)
    return {
        "groups": num_groups,
        "trace_ms": trace_ms,
        "remove_ms": remove_ms,
        "memory_mb": memory,
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, milliseconds of processor time, growth of the peak resident set in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, begun = resident_mb("VmRSS"), time.process_time()
    result = work()
    return result, (time.process_time() - begun) * 1e3, resident_mb("VmHWM") - before


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


def tiny() -> nn.Module:
    """A layer of each of the kinds that nearly all classifiers have."""
    pooling = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), *pooling, nn.Linear(4, 2)
    ).eval()


def make(name: str) -> nn.Module:
    quiet = {"aux_logits": False, "init_weights": False}
    arguments = quiet if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():  # so that outputs depend on what is removed
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data = torch.randn(module.bias.shape, generator=generator) / 10
            module.running_mean = torch.randn(module.bias.shape, generator=generator) / 10
        elif isinstance(module, nn.Linear) and not module.weight.any():
            module.weight.data = torch.randn(module.weight.shape, generator=generator) / 10
    return model.eval()


def num_params(name: str) -> int:
    weights = torchvision.models.get_model_weights(name)
    return int(next(iter(weights)).meta["num_params"])


def half_of(graph: pruning.ChannelGraph) -> pruning.KeepPlan:
    """The first half of every prunable group, at least one unit."""
    return pruning.KeepPlan(
        {
            group.name: tuple(
                np.flatnonzero(group.unit_of_channel < max(1, group.num_units // 2)).tolist()
            )
            for group in graph.prunable
        }
    )


def gated(model: nn.Module, graph: pruning.ChannelGraph, plan: pruning.KeepPlan) -> nn.Module:
    """`model` with zero weights wherever a layer consumes a removed channel."""
    result, kept = copy.deepcopy(model), plan.units_kept(graph)
    parameters = dict(result.named_parameters())
    for axis in graph.axes:
        if not axis.is_input or axis.tensor not in parameters:
            continue
        stays = np.ones(len(axis.groups), dtype=bool)
        for number in np.unique(axis.groups[axis.groups >= 0]):
            here = axis.groups == number
            stays[here] = kept[graph.groups[number].name][axis.units[here]]
        weight = parameters[axis.tensor].data
        shape = [-1 if i == axis.axis else 1 for i in range(weight.dim())]
        weight *= torch.from_numpy(stays).to(weight.dtype).reshape(shape)
    return result


def print_table(rows: list[dict[str, Any]]) -> None:
    print("# Channel graphs of torchvision's classifiers\n")
    print(f"Measured on {datetime.date.today()} by `python benchmarks/channel_graph.py`:")
    print(
        f"{platform.machine()} CPU, one thread, torch {torch.__version__}, torchvision",
    )
    print(f"{torchvision.__version__}, Torch-Pruning 1.6.1. Times are of the processor,")
    print("medians of up to three turns, on a shared machine: compare them within a row.")
    print("FLOPs: one multiply-add is one.\n")
    print(*summary(rows), sep="\n")
    heading = (
        "network",
        "outcome",
        "groups (prunable)",
        "trace ms",
        "remove ms",
        "MB of weights",
        "MB to trace",
        "MB once a process",
        "gated = removed",
        "price = fvcore",
        "price µs",
        "fvcore ms",
        "Torch-Pruning",
        "groups",
        "trace ms",
        "remove ms",
        "MB",
        "turns",
        "ours / theirs",
    )
    print("\n| " + " | ".join(heading) + " |")
    print("| --- " * len(heading) + "|")
    for row in rows:
        print("| " + " | ".join(cells(row)) + " |")


def cells(row: dict[str, Any]) -> list[str]:
    def number(key: str, digits: int = 0) -> str:
        return f"{row[key]:.{digits}f}" if key in row else "–"

    groups = f"{row['ours_groups']} ({row['ours_prunable']})" if "ours_groups" in row else "–"
    difference = f"{row['ours_difference']:.0e}" if "ours_difference" in row else "–"
    exact = {True: "yes", False: "; ".join(row.get("ours_notes", [])) or "no"}
    return [
        row["name"],
        row["ours_outcome"],
        groups,
        number("ours_trace_ms"),
        number("ours_remove_ms"),
        number("ours_model_mb", 1),
        number("ours_memory_mb", 1),
        number("ours_one_time_mb", 1),
        difference,
        exact[row.get("ours_is_priced_exactly", False)],
        number("ours_price_us"),
        number("ours_count_ms"),
        row["theirs_outcome"],
        number("theirs_groups"),
        number("theirs_trace_ms"),
        number("theirs_remove_ms"),
        number("theirs_memory_mb", 1),
        number("ours_turns"),
        f"{ratio(row):.2f}" if "theirs_both_ms" in row else "–",
    ]


def ratio(row: dict[str, Any]) -> float:
    """Of the times of tracing and removing."""
    return float(row["ours_both_ms"] / row["theirs_both_ms"])


def summary(rows: list[dict[str, Any]]) -> list[str]:
    ours = [row for row in rows if row["ours_outcome"] == "ok"]
    both = [row for row in ours if row["theirs_outcome"] == "ok"]
    exact = [row for row in ours if row["ours_is_priced_exactly"]]
    lines = [
        f"- handled: {len(ours)} of {len(rows)}, by Torch-Pruning "
        f"{sum(row['theirs_outcome'] == 'ok' for row in rows)}",
        f"- priced as fvcore counts, to the last unit: {len(exact)}",
        f"- traced in less memory than the network's weights take: "
        f"{sum(r['ours_memory_mb'] < r['ours_model_mb'] for r in ours)}, counting what torch "
        f"loads once a process "
        f"{sum(r['ours_memory_mb'] + r['ours_one_time_mb'] < r['ours_model_mb'] for r in ours)}",
        f"- largest relative difference between gated and removed output (float32): "
        f"{max((row['ours_difference'] for row in ours), default=0):.1e}",
    ]
    if both:
        medians, spreads = (
            {tool: statistics.median(row[f"{tool}_{key}"] for row in both) for tool in TOOLS}
            for key in ("both_ms", "spread")
        )
        ratios = {row["name"]: ratio(row) for row in both}
        slowest = max(ratios, key=ratios.__getitem__)
        lines += [
            f"- median of trace + remove over the {len(both)} networks both handle: "
            f"{medians['ours']:.0f} ms, Torch-Pruning {medians['theirs']:.0f} ms; between the "
            f"slowest and the fastest turn, in the median, lie {spreads['ours']:.0%} and "
            f"{spreads['theirs']:.0%}",
            f"- ours / theirs, network by network: median "
            f"{statistics.median(ratios.values()):.2f}, most {ratios[slowest]:.2f} ({slowest}); "
            f"above 1.2 on {sum(r > 1.2 for r in ratios.values())}",
        ]
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
