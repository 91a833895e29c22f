"""What criteria cost: Taylor-FO and Fisher accumulated in training steps, the oracle's memory.

    python benchmarks/criteria.py > benchmarks/results/criteria.md

A plain step is forward, backward and an SGD step with momentum; a probed step is the same with
a GradientObserver watching, which accumulates all first-order criteria (Taylor-FO on gates and
on weights, Fisher, full gradients). Both kinds alternate on one network, one thread, so that
whatever else the machine does to caches and clocks hits both.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pruning
from pruning.criteria import GradientObserver, Oracle
from pruning.gates.channel_gates import ChannelGates
from search.models import resnet20, resnet56

TARGET = 1.3
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet56": resnet56,
    "resnet18 (torchvision)": lambda: torchvision.models.resnet18(num_classes=10),
}


@dataclass(frozen=True)
class Ratios:
    """Times of a network's steps; ratios are of neighbouring probed and plain steps."""

    name: str
    num_gates: int
    plain_ms: float
    probed_ms: float
    ratios: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)}; all if none is given")
    parser.add_argument("--steps", type=int, default=15, help="pairs of steps per network")
    parser.add_argument("--batch", type=int, default=128, help="samples per minibatch")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    print_heading(device)
    measured = []
    for name in options.names or NETWORKS:
        print(name, file=sys.stderr)
        measured.append(measure_steps(name, options.steps, options.batch, device))
    print_steps(measured, options.batch)
    if not options.names and device.type == "cpu":
        print_memory([measure_memory(hidden) for hidden in (8, 64, 512)])


def measure_steps(name: str, num_pairs: int, batch: int, device: torch.device) -> Ratios:
    """Times of plain and probed training steps, in alternating order."""
    torch.manual_seed(0)
    model = NETWORKS[name]().to(device).train()
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    gates = ChannelGates(model, pruning.trace(model, images[:1]))
    observer = GradientObserver(gates)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(watching: AbstractContextManager[None]) -> float:
        begun = now(device)
        optimizer.zero_grad()
        with watching:
            F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return (now(device) - begun) * 1e3

    plain, probed = [], []
    for number in range(num_pairs + 2):
        kinds = [(plain, False), (probed, True)]
        for times, is_probed in kinds if number % 2 else reversed(kinds):
            times.append(step(observer.watching(batch) if is_probed else contextlib.nullcontext()))
    plain, probed = plain[2:], probed[2:]  # the first steps warm up
    ratios = [b / a for a, b in zip(plain, probed, strict=True)]
    medians = statistics.median(plain), statistics.median(probed)
    return Ratios(name, gates.num_units, *medians, ratios)


@dataclass(frozen=True)
class Memory:
    """Peak bytes of tensors alive: in one forward pass, and while the oracle gates each unit."""

    num_units: int
    forward: int
    oracle: int


def measure_memory(hidden: int) -> Memory:
    """The oracle on `hidden` units whose outputs become 1 MB of activations, however many."""
    model = nn.Sequential(
        *(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 16), nn.Unflatten(1, (1, 4, 4))),
        *(nn.Upsample(scale_factor=32), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    batch = (torch.randn(1, 3), torch.zeros(1, dtype=torch.long))
    graph = pruning.trace(model, torch.zeros(1, 3))
    with LiveBytes() as forward, torch.no_grad():
        model(batch[0])
    with LiveBytes() as oracle:
        Oracle().score(model, graph, [batch, batch])
    return Memory(sum(g.num_units for g in graph.prunable), forward.peak, oracle.peak)


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that operators made inside it and that are still alive; the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        self._storages = {ref: n for ref, n in self._storages.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._storages.values()))
        return result


def print_memory(rows: list[Memory]) -> None:
    print("\n## Memory of the greedy oracle\n")
    print("Peak of the tensors alive at once, every unit gated off in turn.\n")
    print("| units | one forward pass, MB | oracle, MB |")
    print("| --- " * 3 + "|")
    for row in rows:
        print(f"| {row.num_units} | {row.forward / 1e6:.3f} | {row.oracle / 1e6:.3f} |")


def now(device: torch.device) -> float:
    """Seconds: of this process on the CPU, whatever else that does; or on the clock, for a GPU."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def print_heading(device: torch.device) -> None:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print("# Criteria: cost\n")
    print(f"Measured on {datetime.date.today()} by `python {' '.join(sys.argv)}`:")
    print(f"{where} {device.type}, one thread, torch {torch.__version__}, torchvision")
    print(f"{torchvision.__version__}. Times on a CPU are the process's CPU time, on a shared")
    print("machine: compare times within a row.\n")


def print_steps(rows: list[Ratios], batch: int) -> None:
    print("## First-order criteria in a training step\n")
    print(f"Float32, {batch}×3×32×32, all prunable groups gated; one ratio per pair of")
    print(f"neighbouring steps. At most {TARGET} is promised.\n")
    print("| network | gates | plain ms | probed ms | ratio, median | quartiles | n | promise |")
    print("| --- " * 8 + "|")
    for row in rows:
        low, middle, high = statistics.quantiles(row.ratios, n=4)
        verdict = "kept" if middle <= TARGET else "broken"
        print(
            f"| {row.name} | {row.num_gates} | {row.plain_ms:.0f} | {row.probed_ms:.0f} "
            f"| {middle:.2f} | {low:.2f}–{high:.2f} | {len(row.ratios)} | {verdict} |"
        )


if __name__ == "__main__":
    main()
