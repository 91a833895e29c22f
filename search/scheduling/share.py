"""What each of the jobs at once may use, of this machine or of a cluster's nodes."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.errors import ClusterUnreachableError, ConfigError
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.system.machine import usable_cores

_REACH_SECONDS = 5.0


@dataclass(frozen=True)
class Share:
    """What each of `num_workers` jobs at once may use."""

    num_workers: int
    cpus: int
    gpus: float

    @classmethod
    def of(cls, config: SearchConfig, device: str) -> Share:
        """As configured; by default everything there is, shared evenly.

        One job at a time on a GPU, whose memory nothing divides; otherwise one per core.
        """
        wanted, cores = config.resources, usable_cores()
        on_gpu = device == "cuda"
        by_default = 1 if on_gpu else max(1, cores // (wanted.cpus_per_trial or 1))
        num_workers = config.concurrency or by_default
        cpus = wanted.cpus_per_trial or max(1, cores // num_workers)
        gpus = wanted.gpus_per_trial
        if gpus is None:
            gpus = 1 / num_workers if on_gpu else 0.0
        return cls(num_workers, cpus, gpus)


def check_resources(config: SearchConfig, device: str) -> None:
    """ConfigError if there is no such GPU here, or no such cluster, within seconds."""
    wanted = config.resources
    if wanted.gpus_per_trial and not wanted.ray_address and device != "cuda":
        raise ConfigError(
            f"gpus_per_trial is {wanted.gpus_per_trial:g}, but trials run on the CPU: "
            "torch finds no GPU here, or --device says so; leave --gpus-per-trial out"
        )
    address = wanted.ray_address
    if not address or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(f"ray_address must be HOST:PORT or auto, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), timeout=_REACH_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterUnreachableError(f"no Ray cluster answers at {address}: {error}") from error


def on_a_node(share: Share, wanted: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> Share:
    """The share as a node of the cluster has it: Ray would wait for ever for a larger one.

    nodes: as Ray tells of them.
    CPUs that nobody asked for follow from this machine, which its largest node may be smaller
    than. ConfigError where more are asked for than any node has.
    """
    if not wanted.ray_address:
        return share
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = max((int(resources.get("CPU", 0)) for resources in alive), default=0)
    if share.cpus <= most:
        return share
    if wanted.cpus_per_trial is None and most:
        return dataclasses.replace(share, cpus=most)
    raise ConfigError(
        f"cpus_per_trial must be at most {most}, the CPUs of the largest node of the cluster at "
        f"{wanted.ray_address}, got {share.cpus}",
        field="resources.cpus_per_trial",
    )
