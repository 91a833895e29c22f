"""How much memory a process may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_GIGABYTE = 10**9


@contextmanager
def memory_limited(gigabytes: float | None) -> Iterator[None]:
    """Let this process take so much more than it has already; None for any.

    What takes more fails to allocate it. Counted is what a process has written or may write, on
    Linux (RLIMIT_DATA); other systems count less or nothing. A stricter limit that is there stays.
    """
    if gigabytes is None:
        yield
        return
    has = getattr(psutil.Process().memory_info(), "data", 0)  # libraries' own takes gigabytes
    wanted = has + int(gigabytes * _GIGABYTE)
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    known = [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
    with suppress(OSError, ValueError):  # as if there were no limits on this system
        resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), most))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (before, most))
