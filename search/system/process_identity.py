"""Telling a process from a later one that has got its number."""

from __future__ import annotations

from pathlib import Path

import psutil

_PROC = Path("/proc")


def identity(pid: int) -> str:
    """A text that no other process has had or will get; empty where there is no such process.

    On Linux the boot and the process's start in ticks since then, which do not depend on the clock.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # behind the name, in brackets, that a process can choose: state, parent, …
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return f"{boot[:8]}-{after_name[19]}"
    except FileNotFoundError:
        if (_PROC / "self/stat").exists():
            return ""
    except (OSError, IndexError):
        return ""
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def tag(pid: int) -> str:
    """The process as a text, for `alive`; empty where there is none."""
    unique = identity(pid)
    return f"{pid}:{unique}" if unique else ""


def alive(text: str) -> psutil.Process | None:
    """The process of a `tag`, unless it has ended, or it is no tag at all."""
    pid, _, expected = text.partition(":")
    if not (pid.isdigit() and expected):
        return None
    try:
        process = psutil.Process(int(pid))
        has_ended = process.status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, OverflowError):
        return None
    return None if has_ended or identity(process.pid) != expected else process
