"""Files to which lines of JSON are appended, whatever ends the writing, and read past damage."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 64 * 2**20
"""Of a line; what is longer is none of ours."""

_BLOCK = 2**16


class AppendLog:
    """Appends whole lines to an open file, whose last line is cut off if it is not whole.

    descriptor: opened with O_RDWR and O_APPEND by the one process that writes to it; whoever
    opened it closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.ftruncate(descriptor, _end_of_lines(descriptor))

    def append(self, content: Mapping[str, Any]) -> int:
        """Write a line; return the byte behind it. OSError if it does not fit: nothing is there."""
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        before = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, "no room for a whole line")
        except OSError:
            with suppress(OSError):  # half a line would make the next one unreadable
                os.ftruncate(self._descriptor, before)
            raise
        return before + len(line)


def cut_torn_line(file: Path) -> None:
    """Cut off what a killed process left behind the last whole line, if there is the file."""
    with suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
        try:
            AppendLog(descriptor)
        finally:
            os.close(descriptor)


def whole_lines(file: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """The lines from byte `offset` on, each with the byte behind it; nothing without the file.

    A line of more than MOST_BYTES is given in parts, of which none is JSON. OSError for what
    cannot be read.
    """
    try:
        stream = open_file(file)
    except FileNotFoundError:
        return
    with stream:
        stream.seek(offset)
        while line := stream.readline(MOST_BYTES):
            if not line.endswith(b"\n") and len(line) < MOST_BYTES:
                return
            offset += len(line)
            yield line, offset


def open_file(file: Path) -> IO[bytes]:
    """For reading; OSError also for what is no file: a pipe would be waited for."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(file))
    return os.fdopen(descriptor, "rb")


def _end_of_lines(descriptor: int) -> int:
    """The byte behind the last newline."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
