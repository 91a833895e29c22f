"""What the seconds of a training went to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

Phase = Literal["steps", "data", "evaluation", "checkpoint", "report"]
"""What a worker does in an epoch: steps of training, waiting for minibatches, measuring on the
validation part, handing over a state to be stored, passing epochs on."""

PHASES: tuple[Phase, ...] = ("steps", "data", "evaluation", "checkpoint", "report")

Item = TypeVar("Item")


class Stopwatch:
    """Adds up seconds of wall time by phase; those inside of an inner phase count for that alone.

    It reads the host's clock and waits for no accelerator: what a phase has handed to one counts
    where the host first waits for it.
    """

    def __init__(self) -> None:
        self._seconds: dict[Phase, float] = {}
        self._phase: Phase | None = None
        self._since = 0.0

    @contextmanager
    def during(self, phase: Phase | None) -> Iterator[None]:
        """Counts the block for a phase, or for none."""
        outer = self._enter(phase)
        try:
            yield
        finally:
            self._enter(outer)

    def fetching(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time that each takes to come counts as data."""
        iterator, missing = iter(items), object()
        while True:
            outer = self._enter("data")
            try:
                item = next(iterator, missing)
            finally:
                self._enter(outer)
            if item is missing:
                return
            yield item  # type: ignore[misc]

    def taken(self) -> dict[str, float]:
        """Seconds by phase since this was last asked for; only of phases that there were."""
        self._enter(self._phase)
        taken, self._seconds = self._seconds, {}
        return {phase: taken[phase] for phase in PHASES if phase in taken}

    def _enter(self, phase: Phase | None) -> Phase | None:
        """Begin a phase; the one before it, which is returned, ends here."""
        now, outer = time.perf_counter(), self._phase
        if outer is not None:
            self._seconds[outer] = self._seconds.get(outer, 0.0) + now - self._since
        self._phase, self._since = phase, now
        return outer
