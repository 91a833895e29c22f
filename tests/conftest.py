"""What all tests share: one thread, repeatable property tests, and the collection of networks."""

import fcntl
import gc
import importlib.util
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

from search.scheduling import own_ray
from search.system.machine import usable_cores

torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other
gc.disable()  # until tests are collected: what is made by then stays

settings.register_profile("espalier", deadline=None, derandomize=True, database=None)
settings.load_profile("espalier")


def _share(path: Path) -> ModuleType:
    """Makes a file importable under its own name.

    In importlib mode no test folder is on the path, and ours must not be: they are called like
    the packages that they test.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# each imports those before it
for _name in (
    "networks",
    "architecture",
    "operator_architectures",
    "zoo_architectures",
    "architectures",
    "gating",
    "gated_networks",
):
    _share(Path(__file__).parent / "pruning" / f"{_name}.py")

for _name in ("chromium", "ports", "postgresql", "s3"):
    _share(Path(__file__).parent / f"{_name}.py")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait, for processes of their own or for a time."""
    return min(8, usable_cores() + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first and those of many short tests last.

    Processes that take one file after the other then end at about the same time.
    """
    num_tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    short = Path(__file__).parent / "pruning"

    def place(item: pytest.Item) -> tuple[object, ...]:
        path = item.path
        return path not in slow, path.is_relative_to(short), -num_tests[path], path

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What is there now stays to the end, and is searched for garbage once."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Everything goes in the usual order; libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Tests kill processes and pull no plugs: what was written is there without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def ray_begins_late() -> Iterator[pytest.MonkeyPatch]:
    """No Ray is started ahead of its first job: most searches of tests have none for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_ray, "begin", lambda share: None)
        yield patch


@pytest.fixture(scope="session", autouse=True)
def _one_ray() -> Iterator[None]:
    """Searches of one process of tests share a Ray, as long as it fits them."""
    with own_ray.one_ray():
        yield


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives a folder that the first of all processes of this run makes; others wait for it.

    It is only to be read.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, in a folder of its own
        common = common.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, is_made = common / name, common / f"{name}.made"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                shutil.rmtree(path, ignore_errors=True)  # of a process that failed
                path.mkdir()
                make(path)
                is_made.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def empty_store(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with an MLflow database, to be copied rather than made again."""

    def make(store: Path) -> None:
        from mlflow_server import connect, store_uri  # noqa: PLC0415 - MLflow takes seconds

        connect(store_uri(store), "made-with-the-database")

    return made_once("empty-store", make)


@pytest.fixture
def free_port() -> int:
    """See ports.free_port."""
    from ports import free_port  # noqa: PLC0415 - importable since a moment ago

    return int(free_port())


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """A PostgreSQL server of our own, see postgresql.Cluster."""
    from postgresql import running_cluster  # noqa: PLC0415 - importable since a moment ago

    with running_cluster() as found:
        yield found
