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
from search.scheduling.share import Node, Share, check_resources
from search.studies.search_study import run
from search.system.exit_status import EXIT_NOT_NOW, exit_status


@dataclasses.dataclass
class Machine:
    """What this machine is taken to have."""

    cores: int = 12
    gpus: int = 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("search.scheduling.share.usable_cores", lambda: made.cores)
    monkeypatch.setattr("torch.cuda.device_count", lambda: made.gpus)
    return made


def settings_with(concurrency: int | None = None, **wanted: object) -> SearchConfig:
    return small_config(Path(), concurrency=concurrency, resources=ResourcesConfig(**wanted))


def shared(device: str = "cpu", **settings: object) -> tuple[int, int, float]:
    """Jobs at once, and the cores and GPUs of each."""
    return dataclasses.astuple(Share.of(settings_with(**settings), device))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (12, 1, 0.0)),
        ({"concurrency": 3}, (3, 4, 0.0)),
        ({"concurrency": 5}, (5, 2, 0.0)),
        ({"concurrency": 20}, (20, 1, 0.0)),
        ({"cpus_per_trial": 4}, (3, 4, 0.0)),
        ({"concurrency": 2, "cpus_per_trial": 3}, (2, 3, 0.0)),
        ({"device": "cuda"}, (1, 12, 1.0)),
        ({"device": "cuda", "concurrency": 4}, (4, 3, 0.25)),
        ({"device": "cuda", "concurrency": 2, "gpus_per_trial": 0.25}, (2, 6, 0.25)),
        ({"device": "cuda", "gpus_per_trial": 0.25}, (4, 3, 0.25)),
        ({"device": "cuda", "gpus_per_trial": 1 / 3}, (3, 4, 1 / 3)),
        ({"device": "cuda", "gpus_per_trial": 0.01}, (12, 1, 0.01)),
        ({"device": "cuda", "concurrency": 40, "gpus_per_trial": 0.01}, (40, 1, 0.01)),
        ({"device": "cuda", "gpus_per_trial": 0}, (1, 12, 0.0)),
    ],
    ids=str,
)
def test_by_default_everything_is_shared_evenly(
    machine: Machine, settings: dict[str, object], expected: tuple[int, int, float]
):
    assert shared(**settings) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (4, 3, 1.0)),
        ({"concurrency": 3}, (3, 4, 1.0)),
        ({"concurrency": 4, "gpus_per_trial": 0.5}, (4, 3, 0.5)),
        ({"concurrency": 6}, (6, 2, 0.5)),
        ({"concurrency": 8}, (8, 1, 0.5)),
        ({"gpus_per_trial": 0.5}, (8, 1, 0.5)),
        ({"gpus_per_trial": 0.7}, (4, 3, 0.7)),
        ({"gpus_per_trial": 1}, (4, 3, 1.0)),
        ({"gpus_per_trial": 2}, (2, 6, 2.0)),
        ({"gpus_per_trial": 3}, (1, 12, 3.0)),
        ({"gpus_per_trial": 4, "cpus_per_trial": 8}, (1, 8, 4.0)),
        ({"cpus_per_trial": 6}, (4, 6, 1.0)),
    ],
    ids=str,
)
def test_every_gpu_has_a_trial(
    machine: Machine, settings: dict[str, object], expected: tuple[int, int, float]
):
    machine.gpus = 4
    assert shared("cuda", **settings) == expected


def test_there_is_a_trial_on_each_gpu_also_of_a_machine_with_fewer_cores(machine: Machine):
    machine.gpus, machine.cores = 4, 2
    assert shared("cuda") == (4, 1, 1.0)


def test_no_more_trials_begin_than_find_room_on_the_gpus(machine: Machine):
    """Ray would let the others wait, though they were said to have begun."""
    machine.gpus = 2
    assert shared("cuda", concurrency=5, gpus_per_trial=1) == (2, 6, 1.0)
    assert shared("cuda", concurrency=5, gpus_per_trial=0.5) == (4, 3, 0.5)


@pytest.mark.parametrize(
    ("share", "processes", "gpus"),
    [
        (Share(3, 1, 0.0), 1, 0),
        (Share(3, 1, 1.0), 1, 3),
        (Share(4, 1, 0.25), 1, 1),
        (Share(5, 1, 0.25), 1, 2),
        (Share(3, 1, 1 / 3), 1, 1),
        (Share(3, 1, 0.7), 1, 3),
        (Share(2, 4, 4.0), 4, 8),
    ],
)
def test_of_several_gpus_each_has_a_process(share: Share, processes: int, gpus: int):
    assert (share.num_processes, share.all_gpus) == (processes, gpus)


def test_a_gpu_that_is_not_there_is_refused(machine: Machine):
    def checked(gpus: float | None, device: str) -> None:
        check_resources(settings_with(gpus_per_trial=gpus), device)

    with pytest.raises(ConfigError, match=r"gpus_per_trial is 0\.25, but trials run on the CPU"):
        checked(0.25, "cpu")
    checked(0.25, "cuda")
    checked(0, "cpu")
    checked(None, "cpu")
    machine.gpus = 2
    checked(2, "cuda")
    with pytest.raises(ConfigError, match=r"must be at most 2, the GPUs of this machine, got 3$"):
        checked(3, "cuda")


def test_more_cores_than_there_are_are_refused(machine: Machine):
    check_resources(settings_with(cpus_per_trial=12), "cpu")
    with pytest.raises(ConfigError, match=r"at most 12, the cores .* here, got 13$") as error:
        check_resources(settings_with(cpus_per_trial=13), "cpu")
    assert error.value.field == "resources.cpus_per_trial"


def test_a_search_of_more_than_there_is_ends_before_anything_is_read(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("search.studies.search_study.read_data", pytest.fail)
    resources = ResourcesConfig(cpus_per_trial=13)
    with pytest.raises(ConfigError, match="cpus_per_trial must be at most 12"):
        run(small_config(tmp_path, resources=resources))
    assert [*tmp_path.iterdir()] == []


def at(address: str) -> SearchConfig:
    return settings_with(ray_address=address)


@pytest.mark.parametrize(
    "address",
    [
        *("nowhere", "host:", ":6379", "host:port", "ray://host:10001", "http://host:80"),
        *("127.0.0.1:99999", "127.0.0.1:0"),
    ],
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


# ---- of a cluster


AT = "10.0.0.1:6379"


def node(cpus: float, gpus: float = 0, *, is_alive: bool = True) -> dict[str, object]:
    """As Ray tells of one."""
    resources = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {"Alive": is_alive, "Resources": {n: v for n, v in resources.items() if v}}


MIXED = [node(64, 8, is_alive=False), node(2), node(4), node(16, 4), node(8, 2), node(0)]


def on_cluster(
    nodes: list[dict[str, object]], device: str = "cpu", **settings: object
) -> tuple[int, int, float]:
    config = settings_with(ray_address=AT, **settings)
    return dataclasses.astuple(Share.on_cluster(config, device, nodes))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (30, 1, 0.0)),
        ({"concurrency": 100}, (30, 1, 0.0)),
        ({"concurrency": 2}, (2, 8, 0.0)),
        ({"concurrency": 4}, (4, 5, 0.0)),
        ({"concurrency": 5}, (5, 4, 0.0)),
        ({"cpus_per_trial": 3}, (8, 3, 0.0)),
        ({"cpus_per_trial": 16}, (1, 16, 0.0)),
        ({"device": "cuda"}, (6, 4, 1.0)),
        ({"device": "cuda", "concurrency": 2}, (2, 8, 1.0)),
        ({"device": "cuda", "concurrency": 9}, (9, 2, 0.5)),
        ({"device": "cuda", "cpus_per_trial": 5}, (4, 5, 1.0)),
        ({"device": "cuda", "cpus_per_trial": 1}, (6, 1, 1.0)),
        ({"device": "cuda", "gpus_per_trial": 0.5}, (12, 2, 0.5)),
        ({"device": "cuda", "gpus_per_trial": 3}, (1, 16, 3.0)),
        ({"device": "cuda", "gpus_per_trial": 2}, (3, 8, 2.0)),
    ],
    ids=str,
)
def test_trials_are_as_many_as_fit_node_by_node(
    settings: dict[str, object], expected: tuple[int, int, float]
) -> None:
    assert on_cluster(MIXED, **settings) == expected


def test_shares_of_a_gpu_are_no_more_than_cores() -> None:
    assert on_cluster([node(2, 2)], "cuda", gpus_per_trial=0.1) == (2, 1, 0.1)
    assert Node(2, 2).places(1, 0.1) == 2


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        (MIXED, {"cpus_per_trial": 17}, "cpus_per_trial must be at most 16, the CPUs of the"),
        (MIXED, {"device": "cuda", "gpus_per_trial": 5}, "gpus_per_trial must be at most 4, the"),
        (
            [node(16), node(4, 2)],
            {"device": "cuda", "cpus_per_trial": 8},
            f"no node of the cluster at {AT} has 8 CPUs and 1 GPUs for a trial: lower --cpus-per",
        ),
        ([node(4)], {"device": "cuda"}, "device is cuda, but no node .* has a GPU"),
        ([node(0)], {}, f"cpus_per_trial must be at most 0, .* the cluster at {AT}, got 1$"),
        ([], {}, "cpus_per_trial must be at most 0"),
    ],
)
def test_what_no_node_has_is_not_waited_for(
    nodes: list[dict[str, object]], settings: dict[str, object], message: str
) -> None:
    """Ray waits for ever for what no node has, without a word."""
    with pytest.raises(ConfigError, match=message):
        on_cluster(nodes, **settings)
