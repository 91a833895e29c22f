"""Entries kept in a file until they are delivered, so that no death of a process loses them.

A spool is a file of lines, each of them JSON and appended by one write: an entry of `runs.py`, or
a mark that says up to which byte everything is done with. What was on its way when a process
died is delivered a second time, which changes nothing: an entry carries its own time.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from mlflow_server.errors import TrackingError
from mlflow_server.runs import EndRun, Entry, LogFile, LogMetrics, OpenRun, SetTags

_ENTRY = "entry"
_DONE = "done"
_TYPES: dict[str, type[Entry]] = {
    kind.__name__: kind for kind in (OpenRun, LogMetrics, SetTags, LogFile, EndRun)
}


@final
class Spool:
    """The entries of one search that are still to be delivered, in the order of their writing.

    Made without touching the disk unless the file is there; the first `append` makes it and its
    folder. `close` removes it if nothing is left in it. One process at a time has it open.
    """

    def __init__(self, path: Path) -> None:
        """Raises TrackingError if the file is there and cannot be read, or is in use."""
        self.path = path.absolute()
        self.num_unreadable = 0
        self._descriptor: int | None = None
        self._size = 0  # of what is whole; the next line begins here
        self._done = 0  # everything before this byte is done with
        self._left: list[tuple[Entry, int]] = []
        if self.path.exists():
            try:
                self._open()
                self._read()
            except OSError as error:
                raise TrackingError(f"cannot read the spool {self.path}: {error}") from error

    def left(self) -> list[tuple[Entry, int]]:
        """What an earlier process did not deliver: each entry, and the byte where it ends."""
        return self._left

    def append(self, entry: Entry) -> int:
        """Write an entry; return the byte where it ends.

        Raises OSError if it cannot be kept, and TrackingError if another process has the file.
        """
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._read()
        self._append(_as_json(entry))
        return self._size

    def mark(self, end: int) -> None:
        """Everything up to this byte is done with; OSError if that cannot be written."""
        if self._descriptor is not None and end > self._done:
            self._done = end
            self._append({_DONE: end})

    def sync(self) -> None:
        """Bring what is written to the disk itself, to outlast a power cut."""
        if self._descriptor is not None:
            with suppress(OSError):  # as safe as without it
                os.fsync(self._descriptor)

    def close(self, *, is_empty: bool) -> None:
        """End the use of the file, and remove it if nothing in it is left to deliver."""
        if self._descriptor is None:
            return
        if is_empty:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> None:
        while True:
            opened = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(opened)
                raise TrackingError(
                    f"{self.path} is in use: another process records the same search"
                ) from error
            # Who had it before may have removed it between these two calls.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened), os.stat(self.path)):
                    self._descriptor = opened
                    return
            os.close(opened)

    def _read(self) -> None:
        """Find what is left, and cut off a line that was never finished."""
        assert self._descriptor is not None
        content = self.path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        os.ftruncate(self._descriptor, self._size)
        end, entries = 0, []
        for line in content[: self._size].splitlines(keepends=True):
            end += len(line)
            try:
                read = json.loads(line)
                if _DONE in read:
                    self._done = max(self._done, int(read[_DONE]))
                else:
                    entries.append((_from_json(read), end))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.num_unreadable += 1
        self._left = [(entry, end) for entry, end in entries if end > self._done]

    def _append(self, values: Mapping[str, Any]) -> None:
        assert self._descriptor is not None
        line = json.dumps(values).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError("no room for a whole line")
        except OSError:
            # Half a line would make the next one unreadable.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)


def _as_json(entry: Entry) -> dict[str, Any]:
    values = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in vars(entry).items()
    }
    return {_ENTRY: type(entry).__name__} | values


def _from_json(values: dict[str, Any]) -> Entry:
    kind = _TYPES[values.pop(_ENTRY)]
    if kind is LogFile:
        values["path"] = Path(values["path"])
    return kind(**values)
