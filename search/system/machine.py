"""What this process may use of its machine: within affinity, control groups and limits."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_PROCESS_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """CPU cores, at least 1: those it may run on, or fewer if its control group has less time."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.floor(min([cores, *_core_limits()])))


def usable_memory() -> int:
    """Bytes of memory: the machine's, or less if a control group or `ulimit -v` says so."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    own = [] if limit == resource.RLIM_INFINITY else [limit]
    return min([physical, *own, *_memory_limits()])


def _core_limits() -> Iterator[float]:
    for folder in _groups("cpu"):
        words = _words(folder / "cpu.max")  # version 2: microseconds of a period, or max
        if not words:
            words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdigit():
            yield int(words[0]) / int(words[1])


def _memory_limits() -> Iterator[int]:
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            yield from (int(word) for word in _words(folder / name) if word.isdigit())


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the process's control group and those around it, of either version.

    Inside a container its own group may be shown as the root, whatever its path outside is.
    """
    try:
        lines = _PROCESS_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS
        inner = root / path.lstrip("/")
        yield inner
        yield from (folder for folder in inner.parents if folder.is_relative_to(root))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
