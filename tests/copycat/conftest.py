"""One stored architecture, and what tests need to make and to damage others."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _shared(name: str) -> ModuleType:
    """A file of this folder, made importable under its own name: no test folder is on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


stored_architectures = _shared("stored_architectures")


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture on disk, not to be changed."""
    path = tmp_path_factory.mktemp("exports") / "small"
    model, architecture = stored_architectures.pruned_network()
    stored_architectures.save(path, architecture, model)
    return path


@pytest.fixture
def copied(stored: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(stored, tmp_path / "copy"))
