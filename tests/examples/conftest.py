"""What stands in for Ray in searches of the examples; `samples` of the tests of search/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).parents[1] / "search" / "samples.py"
_spec = importlib.util.spec_from_file_location("samples", _FILE)
assert _spec is not None
assert _spec.loader is not None
if "samples" not in sys.modules:  # else the tests of search/ have made it importable
    sys.modules["samples"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["samples"])
