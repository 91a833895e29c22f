"""What the processes of a search printed: the log that a service keeps of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mlflow_server.append_log import open_file

_POLL_SECONDS = 0.5


class LogPart(NamedTuple):
    """Whole lines of a log, and the byte behind them."""

    text: str
    next_offset: int


def read_log(file: Path, offset: int | None, most: int, *, is_over: bool) -> LogPart:
    """At most so many bytes from `offset` on, or of the end for None; OSError without the file.

    From the beginning of a line to the end of one: the last line of a process that is at work
    counts once it is whole, that of one that is not (is_over) as it is.
    """
    with open_file(file) as stream:
        size = stream.seek(0, os.SEEK_END)
        begin = max(0, size - most) if offset is None else min(offset, size)
        at = max(0, begin - 1)
        stream.seek(at)
        content = stream.read(begin - at + most)
    has_more = at + len(content) < size
    if begin > 0:
        head, newline, content = content.partition(b"\n")
        at += len(head) + len(newline)
    if has_more or not is_over:
        end_of_lines = content.rfind(b"\n") + 1
        is_long_line = has_more and not end_of_lines
        content = content if is_long_line else content[:end_of_lines]
    return LogPart(content.decode(errors="replace"), at + len(content))


def log_parts(
    read: Callable[[int], LogPart], is_over: Callable[[], bool], *, follow: bool
) -> Iterator[str]:
    """A log from its beginning to its end, or with `follow` until its search is over.

    read: gives the part from a byte on.
    """
    offset = 0
    while True:
        was_over = is_over()  # asked first: what is read then is all
        text, offset = read(offset)
        if text:
            yield text
        elif was_over or not follow:
            return
        else:
            time.sleep(_POLL_SECONDS)
