"""A Ray of this process's own, kept by a process beside it. Nothing here imports Ray.

So Ray starts while this process does something else, which may fork: copies of a process in which
Ray runs may hang.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from pruning.errors import LostProcessError
from search.config.search_config import SearchConfig
from search.scheduling.ray_environment import give_own_token, missing_variables, own_folder
from search.scheduling.share import Share
from search.system.machine import usable_memory

_PROGRAM = Path(__file__).with_name("ray_node.py")
_WARM = {
    # What workers import while they start, before there is anything to do: torch's optimizers
    # import its compiler when they are made, which takes as long as all the rest of torch.
    "RAY_preload_python_modules": "torch._dynamo,search.trials.trial",
    # Ray ends idle workers once Tune has set their CPUs aside, often just before it wants them.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Tune sets it for its own workers, which these are.
    "PL_DISABLE_FORK": "1",
}
"""Variables of the processes of a Ray, for workers that are ready when the first job comes."""

_STORE_BYTES = 1 << 27
"""Of Ray's object store beside data and weights."""

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class OwnRay:
    """A Ray that is starting or has started.

    num_workers: jobs at once; each has one of its CPUs, whatever it may use.
    num_gpus: that it has.
    store_bytes: what its object store may hold; that takes no memory before it is used.
    folder: the current one of its workers, which relative paths are meant from.
    """

    num_workers: int
    num_gpus: int
    store_bytes: int
    folder: Path
    _process: subprocess.Popen[str]
    _answers: list[dict[str, str]] = field(default_factory=list)

    def fits(self, share: Share, num_bytes: int) -> bool:
        """Whether it is there, with so many workers and GPUs, and room for so much data."""
        is_there = self._process.poll() is None and self.folder == Path.cwd()
        is_large = share.num_workers <= self.num_workers and share.all_gpus <= self.num_gpus
        return is_there and is_large and num_bytes <= self.store_bytes

    def address(self) -> str:
        """Where it is, as soon as it has started; LostProcessError if it does not."""
        if not self._answers:
            assert self._process.stdout is not None
            self._answers.append(json.loads(self._process.stdout.readline() or "{}"))
        (answer,) = self._answers
        if "address" not in answer:
            reason, *_ = answer.get("error", "its process ended").splitlines()
            raise LostProcessError(f"Ray does not start here: {reason}")
        return answer["address"]


class _Keeper:
    """Has at most one Ray of its own at a time."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._ray: OwnRay | None = None

    def ray(self, share: Share, num_bytes: int) -> OwnRay:
        """One that fits: the one there is, or a new one in its place."""
        if self._ray is None or not self._ray.fits(share, num_bytes):
            self._stack.close()
            self._ray = self._stack.enter_context(_starting(share, num_bytes))
        return self._ray


_KEEPER: ContextVar[_Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def one_ray() -> Iterator[None]:
    """Inside the block, and the blocks of this kind in it, one Ray serves all that fits it.

    It starts when it is asked for, see `own_ray`, and ends with the outermost block.
    """
    if _KEEPER.get() is not None:
        yield
        return
    with ExitStack() as stack:
        token = _KEEPER.set(_Keeper(stack))
        try:
            yield
        finally:
            _KEEPER.reset(token)


def own_ray(share: Share, num_bytes: int = 0) -> OwnRay:
    """A Ray of this process's own, which begins to start here unless there is one that fits.

    Its workers start with it and get ready. To be called inside `one_ray`.
    num_bytes: of what workers are to find in its store; where that is not known yet, there is room
        for as much as processes of this machine can share.
    """
    keeper = _KEEPER.get()
    assert keeper is not None, "a Ray needs a block that it ends with"
    return keeper.ray(share, num_bytes)


def begin(share: Share) -> None:
    """Have one start for what is to come in the block, unless there is one that fits."""
    own_ray(share)


def begin_ray(config: SearchConfig, device: str) -> None:
    """Have one start for the jobs of these settings, unless they name a cluster."""
    if not config.resources.ray_address:
        begin(Share.of(config, device))


@contextmanager
def _starting(share: Share, num_bytes: int) -> Iterator[OwnRay]:
    give_own_token()
    store_bytes = _STORE_BYTES + (num_bytes or _most_shared())
    with own_folder() as folder:
        settings = {
            "num_cpus": share.num_workers,
            "num_gpus": share.all_gpus,
            "object_store_memory": store_bytes,
            "_temp_dir": str(folder),
        }
        environment = {**os.environ, **missing_variables(), **_WARM}
        process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            process_group=0,  # also so that Ctrl-C and the like reach this process alone
        )
        with process:
            try:
                room = store_bytes - _STORE_BYTES
                yield OwnRay(share.num_workers, share.all_gpus, room, Path.cwd(), process)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _most_shared() -> int:
    """Bytes that processes here can share without a file on disk, less a margin.

    Processes map all of it: more than a quarter of what a process may map would leave it too little
    for anything else.
    """
    most = usable_memory() // 4
    try:
        return min(most, shutil.disk_usage(_SHARED_MEMORY).free // 2)
    except OSError:
        return 0
