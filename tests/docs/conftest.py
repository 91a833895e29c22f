"""The folder in which the blocks of the documentation run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _share(path: Path) -> None:
    """Makes a file importable under its own name: no test folder is on the path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


_share(Path(__file__).parent / "markdown_blocks.py")
for _name in ("samples", "serving"):
    if _name not in sys.modules:
        _share(Path(__file__).parents[1] / "search" / f"{_name}.py")
