"""Errors that nobody foresaw: people get one line of them, a file the rest."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.errors import ConfigError, first_line


def written(error: BaseException, output: str = "") -> str:
    """Keep the traceback in a file, behind what was printed; the file's name in a few words.

    Empty where no file can be written.
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
def told_in_one_line(failure: str) -> Iterator[None]:
    """Turns whatever the block raises into a ConfigError that begins with `failure`.

    What is printed on standard error meanwhile, by libraries in C++ too, is kept with the
    traceback, and is left out if all goes well.
    """
    with _standard_error_aside() as file:
        try:
            yield
        except Exception as error:
            output = file.read_text(errors="replace") if file else ""
            reason = first_line(error)
            raise ConfigError(f"{failure}: {reason}{written(error, output)}") from error


@contextmanager
def _standard_error_aside() -> Iterator[Path | None]:
    """Sends standard error into a file during the block; it stays there if the process dies."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="espalier-stderr-")
        kept = os.dup(2)
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
        os.dup2(kept, 2)
        os.close(kept)
        os.unlink(name)
