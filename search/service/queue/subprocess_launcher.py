"""Searches as processes of this machine, which outlive the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pruning.errors import ServiceError
from search.service.queue.launcher import (
    Launcher,
    ProcessExit,
    process_exit,
    resume_arguments,
)
from search.service.service_config import SECRET_VARIABLES
from search.storage.folder_lock import lock_holder
from search.storage.layout import LOG_FILE
from search.system.process_identity import alive, tag

_LAST_BYTES = 8192
_EXEC_SECONDS = 0.001
"""After which it is looked again whether a process that was started has its command line."""


class SubprocessLauncher(Launcher):
    """One process each, in a session of its own; a handle is its number and when it began.

    runs: folder of all searches.  flags: further ones of every process.
    environment: variables in addition to those of this process.
    """

    def __init__(
        self,
        runs: Path,
        mlflow_url: str,
        *,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._runs, self._mlflow_url, self._flags = runs, mlflow_url, tuple(flags)
        self._environment = dict(environment or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def launch(self, search_id: str, attempt: int) -> str:  # noqa: ARG002 - one runs, or none
        log = self._runs / search_id / LOG_FILE
        handle = self._running(search_id) or self._start(search_id, log)
        self._logs[handle] = log
        return handle

    def _start(self, search_id: str, log: Path) -> str:
        command = resume_arguments(search_id, self._runs, self._mlflow_url, self._flags)
        environment = {
            name: text for name, text in os.environ.items() if name not in SECRET_VARIABLES
        }
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    [sys.executable, *command],
                    env=environment | self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(f"cannot start a process: {error}") from error
        self._children[child.pid] = child
        while child.poll() is None and not _command_line(child.pid):
            time.sleep(_EXEC_SECONDS)
        return tag(child.pid)  # a child that has ended is there until it is asked for

    def _running(self, search_id: str) -> str:
        """A process of an earlier service that is at work on it, or is about to be."""
        holder = lock_holder(self._runs / search_id)
        if holder is not None:
            return tag(holder.pid)
        arguments = resume_arguments(search_id, self._runs, "", ())
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if command[1 : 1 + len(arguments)] == arguments:
                return tag(process.pid)
        return ""

    def poll(self, handle: str) -> ProcessExit | None:
        pid = int(handle.partition(":")[0])
        child = self._children.get(pid)
        status = None if child is None else child.poll()
        is_running = alive(handle) is not None if child is None else status is None
        if is_running:
            return None
        self._children.pop(pid, None)
        return process_exit(_cause(status), self._last_output(handle), status)

    def _last_output(self, handle: str) -> str:
        log = self._logs.get(handle)
        try:
            content = log.read_bytes() if log else b""
        except OSError:
            return ""
        return content[-_LAST_BYTES:].decode(errors="replace")

    def interrupt(self, handle: str) -> None:
        process = alive(handle)
        if process is not None:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)

    def kill(self, handle: str) -> None:
        process = alive(handle)
        if process is not None:
            with suppress(psutil.Error):
                process.kill()


def _command_line(pid: int) -> list[str]:
    """By which another service would find the process; empty as long as it is being made."""
    try:
        command: list[str] = psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
    return command


def _cause(status: int | None) -> str:
    if status is None:
        return "its process ended while nobody looked"
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
