"""Removing the folder of a search."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.storage.durable import FolderLock

_ASIDE = ".removed-"


@contextmanager
def kept_from_others(runs: Path, search_id: str) -> Iterator[None]:
    """Inside, nobody begins to work on the search; SearchStateError if a process does already."""
    with FolderLock(runs / search_id, "search") as lock:
        lock.acquire(only_if_there=True)
        yield


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
