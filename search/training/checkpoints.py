"""Where a job goes on after its process has died."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.errors import JobGivenUpError
from pruning.networks.torch_interior import tree_map_only
from search.storage.atomic_files import disk_full_as_error, write_durably

_KEPT = 2
_MOST_ATTEMPTS = 3
"""So often may a job's process die before it has got any further."""

_LOCK_SECONDS = 60.0


class Checkpoints:
    """The states of one job in a folder of its own, of which the newest two are kept.

    A state is a mapping of tensors, numbers, strings and containers of those; it is read back
    without running code (torch.load, weights_only). A file has the digest of its content in its
    name and gets that name once it is whole and on disk, so a torn one is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        """Store state `number`, which is above all before; DiskFullError if it does not fit."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getbuffer()
        file = self.folder / f"{number:08d}-{_digest(content)}.pt"
        with disk_full_as_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(file, content)
        for old in self._files()[_KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, on the CPU; None if there is none."""
        for file in self._files():
            content = file.read_bytes()
            if file.stem.partition("-")[2] == _digest(content):
                state: dict[str, Any] = torch.load(
                    io.BytesIO(content), map_location="cpu", weights_only=True
                )
                return state
        return None

    @property
    def exists(self) -> bool:
        """Whether the job was begun and is not settled."""
        return self.folder.exists()

    def clear(self) -> None:
        """Remove the folder: the job is settled."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def attempts(self) -> Attempts:
        """How often the job was tried."""
        return Attempts(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps out other processes: one whose driver was killed may still be at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise JobGivenUpError(
                            f"another process works on {self.folder.name}"
                        ) from None
                    time.sleep(0.1)
            yield

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("[0-9]*-*.pt"), reverse=True)


class Attempts:
    """Counts how often a job was begun without getting any further."""

    def __init__(self, folder: Path) -> None:
        self._file, self._words = folder / "attempts.json", folder / "last-words.txt"

    def begin(self, step: int) -> None:
        """Count one attempt at `step`; JobGivenUpError if there were too many."""
        before = self._read()
        count = before["count"] + 1 if before["step"] == step else 1
        if count > _MOST_ATTEMPTS:
            raise JobGivenUpError(
                f"{self._last_words()}, {_MOST_ATTEMPTS} times in epoch {step + 1}"
            )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({"step": step, "count": count}), encoding="utf-8")
        self._words.unlink(missing_ok=True)  # of an attempt before, which this one may not share

    def forget(self) -> None:
        """Start counting anew: the search itself was stopped, and its jobs with it."""
        self._file.unlink(missing_ok=True)

    def say(self, words: str) -> None:
        """Leave behind why the process is about to end."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._words.write_text(words, encoding="utf-8")

    def _read(self) -> dict[str, int]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            return {"step": int(content["step"]), "count": int(content["count"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"step": -1, "count": 0}

    def _last_words(self) -> str:
        try:
            return self._words.read_text(encoding="utf-8")
        except OSError:
            return "its worker process died"


def copied_off(state: Any) -> Any:
    """The same nested containers with copies of all tensors on the CPU, which nobody changes.

    Tensors that are the same memory are one copy.
    """
    copies: dict[tuple[object, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    return tree_map_only(Tensor, copy, state)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
