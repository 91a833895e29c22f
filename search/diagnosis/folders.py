"""Folders that a search writes to: searches, temporary files, caches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow_server.store import database_path, why_not_a_store
from pruning.errors import ConfigError, SearchStateError
from search.diagnosis.finding import Finding, State, size_text
from search.scheduling.ray_environment import own_folder
from search.storage.folder_lock import FolderLock

_LITTLE, _TOO_LITTLE = 2e9, 100e6
"""Free bytes below which a search may fill a disk, and below which it hardly begins."""


def check_runs(runs: Path) -> Iterator[Finding]:
    """The folder of searches, or where it would be made: it is written to, locked and has room."""
    whole = runs.absolute()
    place = next(folder for folder in (whole, *whole.parents) if folder.is_dir())
    found = str(runs) if place == whole else f"{runs} (not there yet)"
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".espalier-", dir=place) as folder,
            FolderLock(Path(folder), "check") as lock,
        ):
            lock.acquire()
    except (OSError, SearchStateError) as error:
        mend = "choose another folder by --runs"
        yield Finding("searches", found, "problem", f"it cannot be used: {error}", mend)
        return
    yield _room("searches", found, place)
    database = database_path(runs)
    if database.exists() and (reason := why_not_a_store(database)):
        mend = "put the file back from a backup, or move it away: a new one is made"
        yield Finding("MLflow's store", str(database), "problem", reason, mend)


def check_temporary_folder() -> Finding:
    """The folder of temporary files, and one whose path is short enough for Ray's sockets."""
    try:
        folder = Path(tempfile.gettempdir())
        with own_folder() as sockets:
            found = f"{folder}; Ray's sockets in {sockets.parents[1]}"
    except (OSError, ConfigError) as error:
        mend = "set TMPDIR to a folder with a short path that can be written"
        return Finding("temporary files", "no usable folder", "problem", str(error), mend)
    return _room("temporary files", found, folder)


def check_home() -> Finding:
    """The home folder, which a search does without: torch and others keep downloads there."""
    try:
        home = Path.home()
        with tempfile.TemporaryFile(dir=home):
            pass
    except (OSError, RuntimeError) as error:
        return Finding(
            "home",
            "no folder that can be written",
            "warning",
            f"downloaded weights cannot be kept: {error}",
            "set HOME, or TORCH_HOME and HF_HOME, to a folder that can be written",
        )
    return Finding("home", str(home))


def _room(subject: str, found: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{found}; {size_text(free)} free"
    if free >= _LITTLE:
        return Finding(subject, found)
    state: State = "warning" if free >= _TOO_LITTLE else "problem"
    return Finding(subject, found, state, "the disk is almost full", "make room, or choose another")
