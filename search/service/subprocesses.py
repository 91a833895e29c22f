"""Searches as processes of this machine, which outlive the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pruning.errors import ServiceError
from search.durable import lock_holder
from search.service.launchers import LOG_FILE, Gone, Launcher, arguments, refusal_in

_LAST_BYTES = 8192


class SubprocessLauncher(Launcher):
    """One process each, in a session of its own; a handle is its number and when it began.

    runs: folder of all searches.  further: flags for every one.  environment: over this one's.
    """

    def __init__(
        self,
        runs: Path,
        mlflow_url: str,
        *,
        further: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._runs, self._mlflow_url, self._further = runs, mlflow_url, tuple(further)
        self._environment = dict(environment or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def launch(self, search_id: str, attempt: int) -> str:  # noqa: ARG002 - one runs, or none
        log = self._runs / search_id / LOG_FILE
        process = self._running(search_id)
        if process is None:
            process = self._start(search_id, log)
        handle = f"{process.pid}:{process.create_time():.2f}"
        self._logs[handle] = log
        return handle

    def _start(self, search_id: str, log: Path) -> psutil.Process:
        command = arguments(search_id, self._runs, self._mlflow_url, self._further)
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    [sys.executable, *command],
                    env=os.environ | self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(f"cannot start a process: {error}") from error
        self._children[child.pid] = child
        return psutil.Process(child.pid)

    def _running(self, search_id: str) -> psutil.Process | None:
        """A process of an earlier service that is at work on it, or is about to be."""
        holder = lock_holder(self._runs / search_id)
        if holder is not None and psutil.pid_exists(holder):
            return psutil.Process(holder)
        wanted = arguments(search_id, self._runs, "", ())
        for process in psutil.process_iter(["cmdline"]):
            found = process.info["cmdline"] or []
            if found[1 : 1 + len(wanted)] == wanted:
                return process
        return None

    def poll(self, handle: str) -> Gone | None:
        pid, process = int(handle.partition(":")[0]), self._process(handle)
        child = self._children.get(pid)
        status = None if child is None else child.poll()
        if status is None and process is not None and process.status() != psutil.STATUS_ZOMBIE:
            return None
        self._children.pop(pid, None)
        refusal = refusal_in(self._last_words(handle)) if status in (None, 2) else ""
        return Gone(_how(status), refusal)

    def _process(self, handle: str) -> psutil.Process | None:
        pid, _, began = handle.partition(":")
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if f"{process.create_time():.2f}" == began:
                return process
        return None

    def _last_words(self, handle: str) -> str:
        log = self._logs.get(handle)
        try:
            content = log.read_bytes() if log else b""
        except OSError:
            return ""
        return content[-_LAST_BYTES:].decode(errors="replace")

    def interrupt(self, handle: str) -> None:
        process = self._process(handle)
        if process is not None:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)

    def kill(self, handle: str) -> None:
        process = self._process(handle)
        if process is not None:
            with suppress(psutil.Error):
                process.kill()


def _how(status: int | None) -> str:
    if status is None:
        return "its process ended while nobody looked"
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
