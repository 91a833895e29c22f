"""Reports of unforeseen errors: one line for the terminal, the traceback in a file."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.errors import EspalierError, first_line


def write_traceback(error: BaseException, output: str = "") -> str:
    """Writes `output` and the traceback to a temporary file and returns " (details are in FILE)".

    Returns an empty text where no file can be written.
    """
    lines = traceback.format_exception(error)
    try:
        descriptor, name = tempfile.mkstemp(prefix="espalier-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(output + "".join(lines))
    except OSError:
        return ""
    return f" (details are in {name})"


@contextmanager
def as_error(kind: type[EspalierError], failure: str) -> Iterator[None]:
    """Turns every exception of the block into one of a kind, whose message begins with `failure`.

    Standard error of the block, that of C++ libraries too, is written with the traceback, or
    dropped if nothing is raised.
    """
    with _standard_error_aside() as file:
        try:
            yield
        except Exception as error:
            output = file.read_text(errors="replace") if file else ""
            reason = first_line(error)
            raise kind(f"{failure}: {reason}{write_traceback(error, output)}") from error


@contextmanager
def _standard_error_aside() -> Iterator[Path | None]:
    """Sends standard error to a file during the block, which is left if the process dies."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="espalier-stderr-")
        standard_error = os.dup(2)
    except OSError:  # no folder to write to, or no standard error
        yield None
        return
    sys.stderr.flush()
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        sys.stderr.flush()
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.unlink(name)
