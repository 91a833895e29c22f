"""The example of a loop of one's own, run as it stands."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import copycat

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_three_ways_meet_the_budget_and_still_read_digits(tmp_path: Path) -> None:
    """Read again from what was stored, of which nobody but the example knows what makes it."""
    rows = example("own_loop").main(tmp_path)
    ways = ("at_once", "by_receding_scales", "bit_by_bit")
    assert tuple(rows) == ("base", *ways)
    for name, row in rows.items():
        assert row["accuracy"] > 0.9, (name, row)
    for name in ways:
        assert 0.3 < rows[name]["flops"] <= 0.4
        stored = copycat.read(tmp_path / name)
        assert (stored.builder, stored.classes) == (None, ())
