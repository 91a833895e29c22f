"""Python's search for cycles of objects that nobody else holds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Inside the block garbage in cycles stays; what is made there is looked at afterwards.

    For what makes many objects and keeps them: they would have Python go through all that the
    process has loaded, which takes a sixth of a second with torch alone.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
