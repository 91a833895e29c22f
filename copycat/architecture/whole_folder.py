"""Folders that are there whole or not at all, whoever is killed while writing them.

A folder is written as .NAME.saving-0 (-1 … where others are at it), the old one set aside as
.NAME.replaced, and both are renamed. What a killed process leaves behind is put in order by the
next one that saves, opens or lists NAME, which looks for these names alone: there may be thousands
of folders beside it. The folder that a living process writes is locked, and left alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MOST_WRITERS = 8
"""Of one folder at a time."""

_LEFT = re.compile(r"\.(?P<name>.+)\.(?:replaced|saving-\d)")
"""What may be left behind, and of what."""


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields a folder to write to, which becomes `path` at the end; after an error nothing is left.

    path: resolved; what is there is replaced. OSError if the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    repair(path)
    temporary = _made_for(path)
    try:
        with _locked(temporary):
            yield temporary
            temporary.chmod(0o755)
            _put(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def opened_folder(path: str | Path) -> Path:
    """`path`, put in order; or where what was there is, if someone is replacing it just now."""
    path = Path(path)
    resolved = path.resolve()
    repair(resolved)
    aside = _aside(resolved)
    return aside if not path.exists() and aside.is_dir() else path


def stored_names(folder: Path) -> list[str]:
    """The names of what was written to `folder`, each put in order; hidden ones are left out."""
    for hidden in sorted(folder.glob(".*")):
        if (match := _LEFT.fullmatch(hidden.name)) is not None:
            repair(folder.resolve() / match["name"])
    return sorted(entry.name for entry in folder.glob("[!.]*"))


def repair(path: Path) -> None:
    """Put in order what someone who was killed while writing `path` left beside it.

    What was there before is put back, or dropped if the new folder has arrived. Nothing happens
    while somebody is writing, or where the disk refuses.
    """
    with suppress(OSError):
        aside = _aside(path)
        saving = [folder for folder in _saving(path) if folder.is_dir()]
        if not all(map(_is_abandoned, saving)):
            return
        for folder in saving:
            shutil.rmtree(folder, ignore_errors=True)
        if not aside.is_dir():
            return
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, path)


def _put(temporary: Path, path: Path) -> None:
    """Two renames; whoever is killed between them leaves the old folder where `repair` looks."""
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock goes with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _made_for(path: Path) -> Path:
    """A folder of our own to write what becomes `path`; OSError if all are taken."""
    for folder in _saving(path):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
    raise OSError(errno.EBUSY, "too many processes are writing it", str(path))


def _saving(path: Path) -> list[Path]:
    return [path.parent / f".{path.name}.saving-{place}" for place in range(_MOST_WRITERS)]


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.replaced"
