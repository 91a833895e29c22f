"""Telling a process from a later one that has got its number."""

from __future__ import annotations

from pathlib import Path

import psutil

_PROC = Path("/proc")


def identity(pid: int) -> str:
    """What no other process has had or will get; empty where there is no such process.

    On Linux the boot and the ticks since it, which setting the clock does not change.
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
    found = identity(pid)
    return f"{pid}:{found}" if found else ""


def alive(text: str) -> psutil.Process | None:
    """The process of a `tag`, unless it has ended, or it is no tag at all."""
    pid, _, expected = text.partition(":")
    if not (pid.isdigit() and expected):
        return None
    try:
        process = psutil.Process(int(pid))
        is_over = process.status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, OverflowError):
        return None
    return None if is_over or identity(process.pid) != expected else process
