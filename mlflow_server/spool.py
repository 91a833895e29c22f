"""Entries kept in a file until they are delivered, so that no death of a process loses them.

A spool is a file of lines, each of them JSON and appended by one write: an entry of `runs.py`, or
a mark that says up to which byte everything is done with. What was on its way when a process
died is delivered a second time, which changes nothing: an entry carries its own time.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from mlflow_server.append_log import AppendLog, whole_lines
from mlflow_server.errors import TrackingError
from mlflow_server.runs import EndRun, Entry, LogFile, LogMetrics, OpenRun, SetTags

_COMPACT_BYTES = 2**20
"""So much at least that is done with lies in a file before it is written anew without that."""

_ENTRY = "entry"
_DONE = "done"
_TYPES: dict[str, type[Entry]] = {
    kind.__name__: kind for kind in (OpenRun, LogMetrics, SetTags, LogFile, EndRun)
}


@final
class Spool:
    """The entries of one search that are still to be delivered, in the order of their writing.

    Made without touching the disk unless the file is there; the first `append` makes it and its
    folder. `close` removes it if nothing is left in it. One process at a time has it open. What is
    done with is dropped from the file once it is half of it: a file takes about twice the room of
    what waits, and what is copied for that is less than what was delivered.
    """

    def __init__(self, path: Path) -> None:
        """Raises TrackingError if the file is there and cannot be read, or is in use."""
        self.path = path.absolute()
        self.num_unreadable = 0
        self._descriptor: int | None = None
        self._log: AppendLog | None = None
        self._done = 0  # everything before this byte of all that were written is done with
        self._dropped = 0  # so many of those are no longer in the file
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
        if self._log is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._read()
        assert self._log is not None
        return self._dropped + self._log.append(_as_json(entry))

    def mark(self, end: int) -> None:
        """Everything up to this byte is done with; OSError if that cannot be written."""
        if self._log is not None and end > self._done:
            self._done = end
            size = self._log.append({_DONE: end - self._dropped})
            if (done := end - self._dropped) >= max(_COMPACT_BYTES, size - done):
                self._compact(done)

    def _compact(self, done: int) -> None:
        """Put a file without its first bytes in the place of this one; both are locked."""
        assert self._descriptor is not None
        rest = b"".join(_without_mark(line) for line, _ in whole_lines(self.path, done))
        fresh = self.path.with_name(f"{self.path.name}.new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(descriptor, rest)
            os.replace(fresh, self.path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._log = descriptor, AppendLog(descriptor)
        self._dropped += done

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
        self._descriptor, self._log = None, None

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
        self._log = AppendLog(self._descriptor)
        entries = []
        for line, end in whole_lines(self.path):
            try:
                read = json.loads(line)
                if _DONE in read:
                    self._done = max(self._done, int(read[_DONE]))
                else:
                    entries.append((_from_json(read), end))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.num_unreadable += 1
        self._left = [(entry, end) for entry, end in entries if end > self._done]


def _without_mark(line: bytes) -> bytes:
    """A line of the same length that marks nothing: a mark counts bytes of the file it was in."""
    if not line.startswith(b'{"' + _DONE.encode()):
        return line
    nothing = json.dumps({_DONE: 0}, separators=(",", ":")).encode()
    return nothing.ljust(len(line) - 1) + b"\n"


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


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
