"""How many epochs of a study are done, and how long the others will take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EpochCount:
    """Counts the epochs of all jobs, and tells the time left by the pace of this process.

    Times are in seconds since any moment, the same for all of them. Epochs that an earlier
    process performed count as done, but not for the pace.
    """

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, int]] = {}
        self.done = 0
        """Epochs that are done, over all jobs and processes."""

        self._begun = 0.0
        self._new = self._expected = 0

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "steps": {key: list(steps) for key, steps in self._steps.items()},
            "pace": [self._begun, self._new, self._expected],
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> EpochCount:
        """The inverse of `to_mapping`."""
        count = cls()
        for key, (step, num_steps) in content["steps"].items():
            count._set(key, step, num_steps)
        count._begun, count._new, count._expected = content["pace"]
        return count

    def begin(self, now: float) -> None:
        """A process has begun, or continued, the study just now."""
        self._begun, self._new, self._expected = now, 0, 0

    def expect(self, epochs: int) -> None:
        """So many epochs are still to come, as far as is known."""
        self._expected = self._new + epochs

    def count(self, key: str, step: int, num_steps: int, *, is_replay: bool = False) -> None:
        """Job `key` has `step` of its `num_steps` epochs behind it.

        is_replay: those are an earlier process's, which took no time of this one.
        """
        steps_before, num_before = self._steps.get(key, (0, num_steps))
        new = max(0, step - steps_before)
        self._expected -= max(0, num_before - num_steps)  # fewer than it had planned for
        if is_replay:
            self._expected -= new
        else:
            self._new += new
        self._set(key, step, num_steps)

    def settle(self, key: str, *, is_finished: bool) -> None:
        """Job `key` is over; if it came to nothing, its other epochs will not come."""
        step, num_steps = self._steps.get(key, (0, 1))
        if is_finished:
            self._set(key, num_steps, num_steps)
        else:
            self._expected -= max(0, num_steps - step)

    def _set(self, key: str, step: int, num_steps: int) -> None:
        self.done += step - self._steps.get(key, (0, 0))[0]
        self._steps[key] = step, num_steps

    def steps(self, key: str) -> tuple[int, int]:
        """The epochs that job `key` has behind it, and those that it takes in all."""
        return self._steps.get(key, (0, 1))

    @property
    def remaining(self) -> int:
        """Epochs that are still to come."""
        return max(0, self._expected - self._new)

    def seconds_left(self, now: float) -> float | None:
        """None before there is anything to go by."""
        return (now - self._begun) / self._new * self.remaining if self._new else None
