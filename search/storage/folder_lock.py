"""Locks on folders, which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Self

import psutil

from pruning.errors import SearchStateError
from search.system.process_identity import alive, tag

LOCK_FILE = ".lock"


class FolderLock:
    """A lock on the folder of a search, until it is closed or its process ends.

    kind: what the folder holds, such as "search".
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._stream: IO[str] | None = None

    def acquire(self, *, only_if_there: bool = False) -> None:
        """Lock the folder, which exists; SearchStateError names the process that holds it already.

        only_if_there: do nothing, for now, where there is no such folder.
        """
        if self._stream is not None or (only_if_there and not self._folder.is_dir()):
            return
        try:
            stream = (self._folder / LOCK_FILE).open("a+")
        except OSError as error:
            raise _cannot_be_locked(self._folder, error) from error
        if not _try_lock(stream, fcntl.LOCK_EX, self._folder):
            stream.seek(0)
            holder = alive(stream.read().strip())
            stream.close()
            raise _held(self._folder, self._kind, holder)
        stream.truncate(0)
        stream.write(tag(os.getpid()))
        stream.flush()
        self._stream = stream

    def close(self) -> None:
        """Let others in."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def require_free(folder: Path, kind: str) -> None:
    """SearchStateError names the process that holds the folder, if one does."""
    if is_held(folder):
        raise _held(folder, kind, lock_holder(folder))


def _held(folder: Path, kind: str, holder: psutil.Process | None) -> SearchStateError:
    process = "another process" if holder is None else f"process {holder.pid}"
    return SearchStateError(
        f"the {kind} in {folder} is being worked on by {process}: wait for it, or end it"
    )


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder with a FolderLock."""
    return _holder_tag(folder) is not None


def lock_holder(folder: Path) -> psutil.Process | None:
    """The process that holds the folder with a FolderLock.

    None if nobody does, or a process that is not one of this machine.
    """
    return alive(_holder_tag(folder) or "")


def _holder_tag(folder: Path) -> str | None:
    """The tag of the process that holds the folder; None if there is none."""
    try:
        stream = (folder / LOCK_FILE).open()
    except OSError:
        return None
    with stream:
        return None if _try_lock(stream, fcntl.LOCK_SH, folder) else stream.read().strip()


def _try_lock(stream: IO[str], how: int, folder: Path) -> bool:
    """Locks the file unless another process has; returns whether it did.

    SearchStateError where nobody can lock it: not every network file system has locks.
    """
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        stream.close()
        raise _cannot_be_locked(folder, error) from error
    return True


def _cannot_be_locked(folder: Path, error: OSError) -> SearchStateError:
    return SearchStateError(
        f"{folder} cannot be locked against other processes: {error.strerror}; use a folder that "
        "can be written, on a file system with locks"
    )
