"""Trace and prune networks that people bring (zoo_networks.py), beside Torch-Pruning.

    pip install --editable ".[zoo]" && pip install --no-deps torch-pruning==1.6.1
    python benchmarks/zoo.py > benchmarks/results/zoo.md

Each network is handled in a fork of its own, on one thread, with fresh weights. It is traced
exactly and with exact=False; then half of every prunable group is removed and the network runs
again, in eval mode. Torch-Pruning is given the network as it is, and which layers make its outputs;
it counts as pruning a network that runs with fewer parameters afterwards, within half a minute of
processor time. What a network costs is held against what fvcore counts.
"""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import json
import multiprocessing
import platform
import signal
import statistics
import sys
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from zoo_networks import ALL, FAMILIES, make

import pruning
from pruning.cost import call_arguments
from pruning.errors import TraceError

TIME_LIMIT_S = 240
THEIR_TIME_LIMIT_S = 30
PACKAGES = (
    "timm",
    "ultralytics",
    "pytorchcv",
    "monai",
    "segmentation-models-pytorch",
    "transformers",
    "torch-pruning",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="SOURCE:NAME; all of the page if none is given")
    parser.add_argument("--rows", type=Path, help="file of measured rows, to go on with")
    parser.add_argument("--family", action="append", help=f"one of {', '.join(FAMILIES)}")
    parser.add_argument("--ours-alone", action="store_true", help="leave Torch-Pruning out")
    options = parser.parse_args()
    families = options.family or list(FAMILIES)
    rows = rows_of(options.rows)
    try:
        for name in options.names or [name for kind in families for name in FAMILIES[kind]]:
            if name not in rows:
                rows[name] = run_fork(name, with_theirs=not options.ours_alone)
                keep(rows[name], options.rows)
    except KeyboardInterrupt:
        print("interrupted: the page has what was measured", file=sys.stderr)
    print_page(rows)


def rows_of(file: Path | None) -> dict[str, dict[str, Any]]:
    """What was measured before, by the names of networks."""
    if file is None or not file.exists():
        return {}
    return {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}


def keep(row: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        with file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def run_fork(name: str, *, with_theirs: bool) -> dict[str, Any]:
    """All measurements of one network; what was measured before a crash is kept."""
    print(name, file=sys.stderr)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    fork = context.Process(target=measure, args=(name, sender), kwargs={"with_theirs": with_theirs})
    fork.start()
    sender.close()
    until, row = time.monotonic() + TIME_LIMIT_S, {"name": name}
    with suppress(EOFError):
        while receiver.poll(max(0.0, until - time.monotonic())):
            row |= receiver.recv()
    ending = f"over {TIME_LIMIT_S} s" if time.monotonic() >= until else ""
    fork.kill() if ending else fork.join()
    row.setdefault("exact", {"outcome": ending or f"ended with status {fork.exitcode}"})
    row.setdefault("inexact", row["exact"])
    row.setdefault("theirs", {"outcome": ending if with_theirs else "not tried"})
    return row


def measure(name: str, sender: Connection, *, with_theirs: bool) -> None:
    """Send one mapping per finished measurement."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    outputs: list[str] = []
    signal.signal(signal.SIGPROF, stop)
    try:
        model, example = make(name)
    except Exception as error:
        sender.send({"exact": {"outcome": f"not made: {in_short(error)}"}})
        return
    measurements = {
        "exact": lambda: measure_ours(model, example, outputs, exact=True),
        "inexact": lambda: measure_ours(model, example, outputs, exact=False),
        "theirs": lambda: measure_theirs(model, example, outputs),
    }
    for key, function in measurements.items():
        if key == "theirs" and not with_theirs:
            continue
        # Of processor time: what else the machine does is nothing against a tool.
        signal.setitimer(signal.ITIMER_PROF, THEIR_TIME_LIMIT_S if key == "theirs" else 0)
        try:
            result = function()
        except Exception as error:  # a benchmark reports whatever a tool raises
            result = {"outcome": in_short(error)}
        sender.send({key: result})


def in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def stop(*_: object) -> None:
    raise TimeoutError(f"over {THEIR_TIME_LIMIT_S} s")


def measure_ours(
    model: nn.Module, example: Any, outputs: list[str], *, exact: bool
) -> dict[str, Any]:
    """outputs: to be filled with the layers that make what the network returns."""
    begun, used = time.perf_counter(), time.process_time()
    graph = pruning.trace(model, example, exact=exact)
    seconds, processor = time.perf_counter() - begun, time.process_time() - used
    outputs[:] = [
        layer
        for group in graph.groups
        if group.pinned == "the network's output"
        for layer in group.producers
    ]
    plan = half_of(graph)
    run(pruning.remove_channels(model, graph, plan), example)
    least = {group.name: group.floor() * group.unit for group in graph.prunable}
    reasons = collections.Counter(kind_of(g.pinned) for g in graph.groups if g.pinned)
    return {
        "outcome": "ok" if graph.prunable else "nothing prunable",
        "cost": beside_fvcore(graph, model, example) if exact else "",
        "seconds": seconds,
        "processor_seconds": processor,
        "groups": len(graph.groups),
        "prunable": len(graph.prunable),
        "free": 1 - graph.cost(least).flops / max(1, graph.cost().flops),
        "pinned": dict(reasons.most_common()),
    }


def beside_fvcore(graph: pruning.ChannelGraph, model: nn.Module, example: Any) -> str:
    """Whether a graph's cost is what fvcore counts, and by how much it is not."""
    try:
        counted = pruning.measure_cost(model, example).flops
    except TraceError:
        return "fvcore cannot count it"
    difference = graph.cost().flops - counted
    return "as fvcore counts" if difference == 0 else f"{difference:+,} of {counted:,}"


def kind_of(reason: str) -> str:
    """A reason without the sizes and names of one network."""
    for text in ("a size written into the network's code", "computed from the number of channels"):
        if text in reason:
            return text
    return reason


def measure_theirs(model: nn.Module, example: Any, outputs: list[str]) -> dict[str, Any]:
    import torch_pruning as tp  # noqa: PLC0415 - an extra; without it this column says so

    model = copy.deepcopy(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    modules = dict(model.named_modules())
    begun = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[modules[name] for name in outputs if name in modules],
    )
    pruner.step()
    seconds = time.perf_counter() - begun
    run(model, example)
    after = sum(parameter.numel() for parameter in model.parameters())
    return {"outcome": "ok" if after < before else "nothing pruned", "seconds": seconds}


def run(model: nn.Module, example: Any) -> None:
    with torch.no_grad():
        positional, keyword = call_arguments(example)
        model(*positional, **keyword)


def half_of(graph: pruning.ChannelGraph) -> pruning.KeepPlan:
    """The first half of every prunable group, or as much as it needs."""
    return pruning.KeepPlan(
        {
            group.name: tuple(
                np.flatnonzero(
                    group.unit_of_channel < max(group.floor(), group.num_units // 2)
                ).tolist()
            )
            for group in graph.prunable
        }
    )


def print_page(measured: dict[str, dict[str, Any]]) -> None:
    families = FAMILIES | {"others": [n for n in measured if n not in ALL]}
    rows = {
        family: found
        for family, names in families.items()
        if (found := [measured[name] for name in names if name in measured])
    }
    print("# Networks that people bring\n")
    print(f"Measured on {datetime.date.today()} by `python benchmarks/zoo.py`, one run:")
    print(f"{platform.machine()} CPU, one thread, torch {torch.__version__}, torchvision")
    print(
        f"{torchvision.__version__}{versions()}. Seconds are of processor time; one multiply-add "
        "is one FLOP.\n"
    )
    print(
        "Free is the share of the FLOPs that vanishes when every prunable group is as narrow as it "
        "may be: exactly, and where only shapes must stay consistent (exact=False).\n"
    )
    heading = "family", "networks", "pruned", "exactly", "free, exactly", "free", "seconds", "most"
    table(
        [*heading, "Torch-Pruning prunes"], [summary(name, found) for name, found in rows.items()]
    )
    found = [row for family in rows.values() for row in family]
    lost = [r["name"] for r in found if r["theirs"]["outcome"] == "ok" and not is_pruned(r)]
    print(f"\nPruned by Torch-Pruning and not here: {', '.join(lost) or 'none'}.\n")
    table(
        [
            *("network", "exactly", "groups free", "free"),
            *("with exact=False", "groups free", "free", "seconds"),
            *("FLOPs", "what is pinned, with exact=False", "Torch-Pruning"),
        ],
        [cells(row) for row in found],
    )


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - at the end only

    texts = []
    for package in PACKAGES:
        try:
            texts.append(f", {package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "".join(texts)


def is_pruned(row: dict[str, Any]) -> bool:
    return any(row[key]["outcome"] == "ok" for key in ("exact", "inexact"))


def summary(family: str, rows: list[dict[str, Any]]) -> list[str]:
    ok = [row for row in rows if is_pruned(row)]

    def median(mode: str, key: str) -> float:
        return statistics.median([row[mode].get(key, 0.0) for row in rows])

    seconds = [row["exact"].get("processor_seconds", 0.0) for row in rows]
    theirs = sum(row["theirs"]["outcome"] == "ok" for row in rows)
    return [
        family,
        str(len(rows)),
        str(len(ok)),
        str(sum(row["exact"]["outcome"] == "ok" for row in rows)),
        f"{median('exact', 'free'):.0%}",
        f"{median('inexact', 'free'):.0%}",
        f"{statistics.median(seconds):.1f}",
        f"{max(seconds):.1f}",
        str(theirs),
    ]


def cells(row: dict[str, Any]) -> list[str]:
    exact, inexact = row["exact"], row["inexact"]

    def parts(found: dict[str, Any]) -> list[str]:
        if "groups" not in found:
            return [found["outcome"], "–", "–"]
        groups = f"{found['prunable']} of {found['groups']}"
        return [found["outcome"], groups, f"{found['free']:.0%}"]

    reasons = "; ".join(f"{reason} ×{n}" for reason, n in inexact.get("pinned", {}).items())
    seconds = f"{exact['processor_seconds']:.1f}" if "processor_seconds" in exact else "–"
    outcome = row["theirs"]["outcome"]
    cost = exact.get("cost", "–")
    return [row["name"], *parts(exact), *parts(inexact), seconds, cost, reasons or "–", outcome]


def table(heading: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(heading) + " |")
    print("| --- " * len(heading) + "|")
    for row in rows:
        print("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
