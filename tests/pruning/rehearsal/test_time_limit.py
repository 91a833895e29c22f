"""The clock of a trace, with a time of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pruning.rehearsal import time_limit
from pruning.rehearsal.time_limit import Clock, OutOfTimeError


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [100.0]
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_nothing_is_said_of_what_is_over_soon(advance: Callable[[float], None]) -> None:
    told: list[str] = []
    clock = Clock(30, told.append)
    for num_runs, seconds in enumerate((0.5, 1.0, 1.0, 3.0)):
        advance(seconds)
        clock.check(num_runs, {})
    assert len(told) == 2
    assert "run 4" in told[-1]
    assert "6 s of at most 30 s" in told[-1]
    clock.close()
    assert told[2:] == [""]


def test_who_was_told_nothing_is_not_told_of_the_end(advance: Callable[[float], None]) -> None:
    told: list[str] = []
    clock = Clock(30, told.append)
    clock.check(0, {})
    clock.close()
    assert told == []


def test_a_run_that_would_end_too_late_is_not_begun(advance: Callable[[float], None]) -> None:
    clock = Clock(10, lambda _: None)
    clock.check(0, {})
    advance(4)
    clock.check(1, {})
    advance(4)
    with pytest.raises(OutOfTimeError) as stopped:
        clock.check(2, {"conv1": 3})
    assert (stopped.value.limit, stopped.value.passed) == (10, {"conv1": 3})


def test_without_a_limit_it_goes_on(advance: Callable[[float], None]) -> None:
    told: list[str] = []
    clock = Clock(math.inf, told.append)
    advance(1e6)
    clock.check(7, {})
    assert told[-1].endswith("(1000000 s)")
