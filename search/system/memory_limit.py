"""A limit on the memory of this process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_GIGABYTE = 10**9


@contextmanager
def memory_limited(gigabytes: float | None) -> Iterator[None]:
    """Limits this process to so many GB beyond what it has already; None sets no limit.

    Allocations beyond it fail. Linux counts writable memory (RLIMIT_DATA), other systems less or
    nothing. A stricter limit of the process stays.
    """
    if gigabytes is None:
        yield
        return
    used = getattr(psutil.Process().memory_info(), "data", 0)  # libraries take gigabytes
    limit = used + int(gigabytes * _GIGABYTE)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    finite = [value for value in (soft, hard) if value != resource.RLIM_INFINITY]
    with suppress(OSError, ValueError):  # systems without such limits
        resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *finite]), hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
