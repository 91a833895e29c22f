"""What each of the jobs at once may use, of this machine or of a cluster's nodes."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruning.errors import ClusterUnreachableError, ConfigError
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.system.machine import usable_cores

_REACH_SECONDS = 5.0

_ROUNDING = 1e-6
"""Three shares of 1/3 fit on a GPU."""


@dataclass(frozen=True)
class Node:
    """A machine, or a node of a cluster: the CPU cores and GPUs that jobs may use of it."""

    cpus: int
    gpus: int = 0

    @classmethod
    def here(cls, device: str) -> Node:
        """This machine, within affinity and control groups; no GPU if jobs run on the CPU."""
        return cls(usable_cores(), torch.cuda.device_count() if device == "cuda" else 0)

    def places(self, cpus: int, gpus: float) -> int:
        """How many jobs of so many cores and GPUs fit on it at once."""
        by_cpus = self.cpus // cpus
        return min(by_cpus, _on_gpus(self.gpus, gpus)) if gpus else by_cpus


@dataclass(frozen=True)
class Share:
    """What each of `num_workers` jobs at once may use: CPU cores and GPUs.

    Several GPUs are whole ones of one machine, each for a process of its own.
    """

    num_workers: int
    cpus: int
    gpus: float

    @classmethod
    def of(cls, config: SearchConfig, device: str) -> Share:
        """As configured; by default everything that this machine has.

        A job per GPU, or per core where jobs run on the CPU. A GPU is shared where a fraction of
        one is asked for, or more jobs at once than there are GPUs; more jobs than fit on the GPUs
        are not begun. Cores that nobody chose a number of are shared evenly.
        """
        wanted, here = config.resources, Node.here(device)
        gpus = _gpus_each(config, device, here.gpus)
        if gpus:
            num_workers = _jobs_at_once(config, [here], gpus)
        else:
            by_cores = max(1, here.cpus // (wanted.cpus_per_trial or 1))
            num_workers = config.concurrency or (1 if device == "cuda" else by_cores)
        cpus = wanted.cpus_per_trial or max(1, here.cpus // num_workers)
        return cls(num_workers, cpus, gpus)

    @classmethod
    def on_cluster(
        cls, config: SearchConfig, device: str, nodes: Iterable[Mapping[str, Any]]
    ) -> Share:
        """As `of`, by what the nodes of a cluster have, as Ray tells of them.

        Ray would wait for ever, without a word, for what none of them has: ConfigError.
        """
        wanted = config.resources
        alive = _alive(nodes)
        gpus = _gpus_each(config, device, sum(node.gpus for node in alive))
        _require_node(alive, wanted, device, gpus)

        def places(cpus: int) -> int:
            return sum(node.places(cpus, gpus) for node in alive)

        most = min(places(1), _jobs_at_once(config, alive, gpus))
        largest = max(node.cpus for node in alive)
        evenly = next(cpus for cpus in range(largest, 0, -1) if places(cpus) >= most)
        cpus = wanted.cpus_per_trial or evenly
        return cls(min(most, places(cpus)), cpus, gpus)

    @property
    def num_processes(self) -> int:
        """Processes of a job: one for each of several GPUs."""
        return max(1, math.floor(self.gpus))

    @property
    def all_gpus(self) -> int:
        """GPUs of a machine that the jobs at once need together."""
        if self.gpus >= 1:
            return self.num_workers * math.floor(self.gpus)
        return math.ceil(self.num_workers / _on_gpus(1, self.gpus)) if self.gpus else 0


def _on_gpus(count: int, gpus: float) -> int:
    """How many jobs of so many GPUs, or of a share of one, find room on `count` GPUs."""
    if gpus > 1:
        return count // math.floor(gpus)
    return count * math.floor(1 / gpus + _ROUNDING)


def _gpus_each(config: SearchConfig, device: str, num_gpus: int) -> float:
    """GPUs of each job, of so many in all; less than one only where that is asked for."""
    wanted = config.resources.gpus_per_trial
    if wanted is not None or device != "cuda":
        return wanted or 0.0
    return 1 / math.ceil(max(1, config.concurrency or 1) / max(1, num_gpus))


def _jobs_at_once(config: SearchConfig, nodes: Sequence[Node], gpus: float) -> int:
    """As many as asked for, or as there is room for; of shares of a GPU no more than cores."""
    cpus = config.resources.cpus_per_trial or 1
    most = sum(max(node.gpus, node.cpus // cpus) for node in nodes)
    if gpus:
        room = max(1, sum(_on_gpus(node.gpus, gpus) for node in nodes))
        return min(config.concurrency, room) if config.concurrency else min(room, most)
    return config.concurrency or most


def _alive(nodes: Iterable[Mapping[str, Any]]) -> list[Node]:
    resources = (node["Resources"] for node in nodes if node["Alive"])
    return [Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources]


def _require_node(nodes: Sequence[Node], wanted: ResourcesConfig, device: str, gpus: float) -> None:
    """ConfigError unless a job fits on some node."""
    cluster = f"of the cluster at {wanted.ray_address}"
    cpus = wanted.cpus_per_trial or 1
    if any(node.places(cpus, gpus) for node in nodes):
        return
    most_cpus = max((node.cpus for node in nodes), default=0)
    most_gpus = max((node.gpus for node in nodes), default=0)
    if device == "cuda" and not most_gpus:
        raise ConfigError(f"device is cuda, but no node {cluster} has a GPU: use --device cpu")
    for name, got, most, kind in (
        ("gpus_per_trial", gpus, most_gpus, "GPUs"),
        ("cpus_per_trial", cpus, most_cpus, "CPUs"),
    ):
        if got > most:
            raise ConfigError(
                f"{name} must be at most {most}, the {kind} of the largest node {cluster}, got "
                f"{got:g}",
                field=f"resources.{name}",
            )
    raise ConfigError(
        f"no node {cluster} has {cpus} CPUs and {gpus:g} GPUs for a trial: lower --cpus-per-trial "
        "or --gpus-per-trial",
        field="resources.cpus_per_trial",
    )


def check_resources(config: SearchConfig, device: str) -> None:
    """ConfigError if this machine has less than a trial is to have, within seconds.

    Likewise if the cluster that is named does not answer; what it has is seen once it is joined.
    """
    wanted = config.resources
    if wanted.gpus_per_trial and device != "cuda":
        raise ConfigError(
            f"gpus_per_trial is {wanted.gpus_per_trial:g}, but trials run on the CPU: "
            "torch finds no GPU here, or --device says so; leave --gpus-per-trial out",
            field="resources.gpus_per_trial",
        )
    if wanted.ray_address:
        _require_reachable(wanted.ray_address)
    else:
        _require_here(wanted, Node.here(device))


def _require_here(wanted: ResourcesConfig, here: Node) -> None:
    for name, most, kind in (
        ("gpus_per_trial", here.gpus, "GPUs of this machine"),
        ("cpus_per_trial", here.cpus, "cores that affinity and control groups leave here"),
    ):
        got = getattr(wanted, name)
        if got and got > most:
            raise ConfigError(
                f"{name} must be at most {most}, the {kind}, got {got:g}", field=f"resources.{name}"
            )


def _require_reachable(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    # Beyond 65,535 another port would be asked, which may well answer.
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"ray_address must be HOST:PORT or auto, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), timeout=_REACH_SECONDS):
            pass
    except OSError as error:
        raise ClusterUnreachableError(f"no Ray cluster answers at {address}: {error}") from error
