"""Stores and a server to record into, each made once because MLflow takes seconds for it."""

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_server import running_server

# In importlib mode no test folder is on the path; test files import this one by its name.
_spec = importlib.util.spec_from_file_location("recorded", Path(__file__).parent / "recorded.py")
assert _spec is not None
assert _spec.loader is not None
sys.modules["recorded"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["recorded"])


@pytest.fixture
def make_store(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        return Path(shutil.copytree(empty_store, tmp_path / name))

    return make


@pytest.fixture
def store(make_store: Callable[[str], Path]) -> Path:
    return make_store("store")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """A real server, for every test that records over HTTP under a search name of its own."""
    store = Path(shutil.copytree(empty_store, tmp_path_factory.mktemp("served") / "store"))
    with running_server(store, port=0) as server:
        yield server.url
