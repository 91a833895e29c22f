"""What all tests share: one thread, repeatable property tests, and the collection of networks."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other

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

_share(Path(__file__).parent / "postgresql.py")


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """A PostgreSQL server of our own, see postgresql.Cluster."""
    from postgresql import running_cluster  # noqa: PLC0415 - importable since a moment ago

    with running_cluster() as found:
        yield found
