"""CONTRIBUTING names files, and what is in them, that there are."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from markdown_blocks import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = (".ci", "pruning", "copycat", "search", "mlflow_server", "tests", "docs", "benchmarks")

_FILE = r"(?:[\w.-]+/)*\w+\.(?:py|md|yml)"
_PATH = re.compile(rf"`({_FILE}|(?:[\w.-]+/)+\w*)(?: -k \w+)?`")
_NAMES_IN_A_FILE = re.compile(rf"((?:`\w+`(?:, | and ))*`\w+`) (?:of|in) `({_FILE})`")


@functools.cache
def paths() -> tuple[Path, ...]:
    """Every file and folder that CONTRIBUTING may name."""
    below = [path for name in FOLDERS for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    return (*ROOT.iterdir(), *below)


def those_called(name: str) -> list[Path]:
    """The paths that end with `name`."""
    return [path for path in paths() if f"{path}/".endswith(f"/{name.rstrip('/')}/")]


def test_files_and_folders_are_there() -> None:
    named = {name for name in _PATH.findall(TEXT) if "PAPER" not in name}
    assert {".ci/run", "tests/docs", "search/data/", "docs/how-to/recipes.md"} <= named
    assert sorted(name for name in named if not those_called(name)) == []


def test_names_are_in_the_files_that_are_named() -> None:
    named = [
        (name, file)
        for names, file in _NAMES_IN_A_FILE.findall(TEXT)
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert {("METHODS", "search/config/methods.py"), ("ROOMS", "tests/test_layers.py")} <= {*named}
    missing = [
        (name, file)
        for name, file in named
        if not any(
            re.search(rf"\b{name}\b", path.read_text("utf-8")) for path in those_called(file)
        )
    ]
    assert missing == []
