"""Writing whole files or none, and recognising a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.errors import DiskFullError, causes


def write_durably(file: Path, content: bytes | memoryview) -> None:
    """Write the file so that, even after a loss of power, it is there whole or as it was before."""
    temporary = file.with_name(f".{file.name}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def disk_full_as_error(folder: Path) -> Iterator[None]:
    """Turns a full disk, whatever error says so, into DiskFullError."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"the disk of {folder} is full: make room, then run the same command again; "
                "what was finished is kept"
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that there is no room."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if f"os error {errno.ENOSPC}" in str(cause):  # as libraries written in Rust put it
            return True
    return False
