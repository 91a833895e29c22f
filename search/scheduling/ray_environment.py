"""What Ray finds around it: environment variables, a token and a folder. Nothing here imports Ray.

A Ray of a search's own is nobody else's: it listens on loopback addresses only, asks for a token
that no file holds, keeps its files in a folder of its own that goes with it, and needs no home.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.errors import ConfigError, SearchStateError
from search.storage.folder_lock import LOCK_FILE, FolderLock, is_held

_AT_IMPORT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The trials work in the caller's directory, so that relative paths and modules of the user's
    # own mean what they meant on the command line.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A worker that died is tried again: nothing that a person needs to read.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker died or was killed",
    # Ray's monitor kills a worker when the whole machine is short of memory, and Tune gives the
    # search up for it. Without it the kernel kills the worker, which is tried again.
    "RAY_memory_monitor_refresh_ms": "0",
    # Workers have the priority that the search was given: at Ray's niceness of 15 they starve
    # beside any other program, and seem to hang.
    "RAY_worker_niceness": "0",
    # Under `uv run` Ray would send the current folder to workers, to build an environment there.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A Ray started here takes the loopback address for its own, on every system, and then listens
    # on that alone; a cluster that is joined keeps its addresses.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

AUTH_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_PLACES = f"in {_TOKEN}, in the file of {_TOKEN_PATH} and in ~/.ray/auth_token"
"""Where a cluster's token is looked for, in words."""

_PATIENCE = "RAY_gcs_server_port_wait_time_s"
"""For how many seconds Ray tries to get a cluster's first answer."""

_PREFIX, _INNER = "esp", "r"
_NEW_SECONDS = 60.0
"""A folder whose lock is younger may be about to be locked."""

_LONGEST_FOLDER = 107 - len(
    f"/{_INNER}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)
"""Of a socket's path Linux takes 107 bytes (unix(7))."""


def missing_variables() -> dict[str, str]:
    """What Ray is to read while it is imported, where nobody has chosen otherwise."""
    wanted = dict(_AT_IMPORT)
    if cluster_token():  # without a mode Ray sends no token to an address that it is given
        wanted[AUTH_MODE] = "token"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def cluster_token() -> str:
    """The token of a cluster, from the first of Ray's three places that has one; maybe empty."""
    if token := os.environ.get(_TOKEN, "").strip():
        return token
    with contextlib.suppress(OSError, RuntimeError, UnicodeDecodeError):  # maybe there is no home
        chosen = os.environ.get(_TOKEN_PATH)
        file = Path(chosen) if chosen else Path.home() / ".ray" / "auth_token"
        return file.read_text(encoding="utf-8").strip()
    return ""


@contextmanager
def joining_soon_or_never() -> Iterator[None]:
    """Inside the block a cluster that refuses the token is given up after a few seconds.

    By itself Ray tries for half a minute; that the cluster is there is known already.
    """
    is_chosen = _PATIENCE in os.environ
    os.environ.setdefault(_PATIENCE, "4")
    try:
        yield
    finally:
        if not is_chosen:
            os.environ.pop(_PATIENCE, None)


def give_own_token() -> None:
    """Let Rays that this process starts from now on ask for a token of its own.

    It stays: Ray reads it once in the life of a process, and needs it to the end.
    """
    os.environ[_TOKEN] = _own_token()
    os.environ.pop(AUTH_MODE, None)  # Ray turns authentication on by itself where no mode is set


@functools.cache
def _own_token() -> str:
    return secrets.token_hex(32)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for Ray's files, inside one that nobody else can read and that goes with the block.

    Those that killed processes of this user have left go first.
    ConfigError where no folder has a path short enough for sockets and can be written.
    """
    for parent in _parents():
        _remove_abandoned(Path(parent))
    folder = _short_folder()
    try:
        with FolderLock(folder, "Ray") as lock:
            lock.acquire()
            yield folder / _INNER  # which Ray makes readable to everybody
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, SearchStateError):
            lock = (folder / LOCK_FILE).stat()
            is_new = time.time() - lock.st_mtime < _NEW_SECONDS
            if lock.st_uid == os.getuid() and not is_new and not is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _parents() -> list[str]:
    wanted = [os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    return [parent for parent in dict.fromkeys(wanted) if parent]


def _short_folder() -> Path:
    """A new folder that leaves room for the names of Ray's sockets."""
    for parent in _parents():
        try:
            folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        except OSError:
            continue
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            return Path(folder)
        os.rmdir(folder)
    longest = _LONGEST_FOLDER - len("/esp12345678")
    raise ConfigError(
        "Ray needs a folder for its sockets that can be written and has a short path: make /tmp "
        f"writable, or set TMPDIR to a path of at most {longest} bytes"
    )
