"""What each of the jobs at once may use."""

from __future__ import annotations

import dataclasses
import socket
import time
from pathlib import Path

import pytest
from ports import free_port
from samples import small_config

from pruning.errors import ConfigError
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.scheduling.share import Share, check_resources, on_a_node
from search.studies.search_study import run
from search.system.exit_status import EXIT_NOT_NOW, exit_status


def shared(tmp_path: Path, device: str = "cpu", concurrency: int | None = None, **wanted: object):
    """The share of each job on a machine of 12 cores."""
    resources = ResourcesConfig(**wanted)
    config = small_config(tmp_path, concurrency=concurrency, resources=resources)
    return dataclasses.astuple(Share.of(config, device))


@pytest.fixture
def _twelve_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.scheduling.share.usable_cores", lambda: 12)


@pytest.mark.usefixtures("_twelve_cores")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (12, 1, 0.0)),
        ({"concurrency": 3}, (3, 4, 0.0)),
        ({"concurrency": 5}, (5, 2, 0.0)),
        ({"concurrency": 20}, (20, 1, 0.0)),
        ({"cpus_per_trial": 4}, (3, 4, 0.0)),
        ({"cpus_per_trial": 24}, (1, 24, 0.0)),
        ({"concurrency": 2, "cpus_per_trial": 3}, (2, 3, 0.0)),
        ({"device": "cuda"}, (1, 12, 1.0)),
        ({"device": "cuda", "concurrency": 4}, (4, 3, 0.25)),
        ({"device": "cuda", "concurrency": 4, "gpus_per_trial": 0.5}, (4, 3, 0.5)),
        ({"device": "cuda", "gpus_per_trial": 0}, (1, 12, 0.0)),
    ],
    ids=str,
)
def test_by_default_everything_is_shared_evenly(
    tmp_path: Path, settings: dict[str, object], expected: tuple[int, int, float]
):
    assert shared(tmp_path, **settings) == expected


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path):
    def checked(gpus: float | None, device: str) -> None:
        resources = ResourcesConfig(gpus_per_trial=gpus)
        check_resources(small_config(tmp_path, resources=resources), device)

    with pytest.raises(ConfigError, match=r"gpus_per_trial is 0\.25, but trials run on the CPU"):
        checked(0.25, "cpu")
    checked(0.25, "cuda")
    checked(0, "cpu")
    checked(None, "cpu")


def at(address: str) -> SearchConfig:
    return small_config(Path(), resources=ResourcesConfig(ray_address=address))


@pytest.mark.parametrize(
    "address", ["nowhere", "host:", ":6379", "host:port", "ray://host:10001", "http://host:80"]
)
def test_an_address_that_is_none_is_refused(address: str):
    with pytest.raises(ConfigError, match="ray_address must be HOST:PORT or auto, got "):
        check_resources(at(address), "cpu")


def test_a_cluster_that_does_not_answer_is_refused_in_seconds():
    begun = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}: ") as caught:
        check_resources(at(address), "cpu")
    assert exit_status(caught.value) == EXIT_NOT_NOW  # it may be up again later
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:99999: "):
        check_resources(at("127.0.0.1:99999"), "cpu")
    assert time.monotonic() - begun < 10


def test_a_cluster_that_answers_is_taken_for_one():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_resources(at(f"127.0.0.1:{server.getsockname()[1]}"), "cpu")
    check_resources(at("auto"), "cpu")


def test_an_unreachable_cluster_ends_the_search_before_anything_is_written(tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    config = small_config(tmp_path, resources=ResourcesConfig(ray_address=address))
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        run(config)
    assert [*tmp_path.iterdir()] == []


def test_a_trial_takes_no_more_than_a_node_of_the_cluster_has() -> None:
    """Ray waits for ever for what no node has, without a word."""

    def node(cpus: float, *, is_alive: bool = True) -> dict[str, object]:
        return {"Alive": is_alive, "Resources": {"CPU": cpus}}

    nodes = [node(64.0, is_alive=False), node(2.0), node(4.0), {"Alive": True, "Resources": {}}]
    joined = ResourcesConfig(ray_address="10.0.0.1:6379")
    assert on_a_node(Share(2, 8, 0.0), joined, nodes) == Share(2, 4, 0.0)
    assert on_a_node(Share(2, 3, 0.0), joined, nodes) == Share(2, 3, 0.0)
    assert on_a_node(Share(2, 8, 0.0), ResourcesConfig(), nodes) == Share(2, 8, 0.0)
    chosen = dataclasses.replace(joined, cpus_per_trial=8)
    with pytest.raises(ConfigError, match=r"at most 4, the CPUs of the largest node .*:6379, got"):
        on_a_node(Share(2, 8, 0.0), chosen, nodes)
    nodes.clear()
    with pytest.raises(ConfigError, match="cpus_per_trial must be at most 0"):
        on_a_node(Share(2, 8, 0.0), joined, nodes)
