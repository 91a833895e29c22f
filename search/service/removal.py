"""Removing the folder of a search."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

_ASIDE = ".removed-"


def remove_folder(runs: Path, search_id: str) -> None:
    """Remove it so that it is gone under its name at once, whatever ends the process then."""
    aside = runs / f"{_ASIDE}{search_id}"
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):
        (runs / search_id).rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def clear(runs: Path) -> None:
    """Remove what an earlier process had begun to remove."""
    for aside in runs.glob(f"{_ASIDE}*"):
        shutil.rmtree(aside, ignore_errors=True)
