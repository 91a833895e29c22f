"""The folder of all searches, as the service reads and changes it.

A folder may have been copied in, shared or restored from an archive: nothing in it is trusted.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from search.service.problem_details import ProblemError
from search.storage.folder_lock import FolderLock

SEARCH_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+\-]{0,119}$"
"""What the folder of a search may be called."""

EXPORTS_FOLDER = "exports"
"""In the folder of a search: the exports that the service has made of its architectures."""

_REMOVED = ".removed-"


class RunsFolder:
    """Files and folders of searches below `path`, by the ids of the searches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, search_id: str, *below: str) -> Path:
        """The folder of a search, or one in it; ProblemError 404 unless it is really in there."""
        return self._inside((search_id, *below), Path.is_dir)

    def file(self, search_id: str, *below: str) -> Path:
        """A file in the folder of a search, as `folder`; pipes, which may never end, are refused.

        Raises ProblemError 404.
        """
        return self._inside((search_id, *below), Path.is_file)

    def json_object(self, search_id: str, *below: str) -> dict[str, Any]:
        """The JSON object in such a file; ProblemError 409 if it holds anything else."""
        file = self.file(search_id, *below)
        try:
            content = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ProblemError(409, f"{'/'.join((search_id, *below))} is damaged")
        return content

    def _inside(self, names: Sequence[str], is_right: Callable[[Path], bool]) -> Path:
        home = self.path.resolve()
        path = home.joinpath(*names)
        if path.resolve() != path or home not in path.parents or not is_right(path):
            raise ProblemError(404, f"there is no {'/'.join(names)}")
        return path

    def is_writable(self) -> bool:
        """Whether a file can be written now: a disk may be full, or away."""
        try:
            with tempfile.TemporaryFile(dir=self.path) as stream:
                stream.write(bytes(4096))
                stream.flush()
        except OSError:
            return False
        return True

    @contextmanager
    def locked(self, search_id: str) -> Iterator[None]:
        """Keeps processes from starting on the search; SearchStateError if one works on it."""
        with FolderLock(self.path / search_id, "search") as lock:
            lock.acquire(only_if_there=True)
            yield

    def remove(self, search_id: str) -> None:
        """Remove the folder of a search: it is gone under its name at once, even if this dies."""
        aside = self.path / f"{_REMOVED}{search_id}"
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            (self.path / search_id).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def finish_removals(self) -> None:
        """Remove what an earlier process had begun to remove."""
        for aside in self.path.glob(f"{_REMOVED}*"):
            shutil.rmtree(aside, ignore_errors=True)


def refuse_constant(name: str) -> None:
    """ValueError for NaN and Infinity, which `json` would read; its `parse_constant`."""
    raise ValueError(f"{name} is no number")
