"""Seconds by phase, on a clock that only moves when it is told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from search.system import stopwatch
from search.system.stopwatch import Stopwatch


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_time_counts_for_the_innermost_phase_alone(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 1  # of no phase
    with watch.during("steps"):
        clock.now += 2
        with watch.during("evaluation"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert watch.taken() == {"steps": 10, "evaluation": 4}
    assert watch.taken() == {}


def test_waiting_for_each_item_is_data_and_the_rest_is_not(clock: Clock) -> None:
    def slow() -> Iterator[int]:
        for item in (1, 2):
            clock.now += 3
            yield item
        clock.now += 0.5  # to find that there are no more

    watch, items = Stopwatch(), []
    with watch.during("steps"):
        for item in watch.fetching(slow()):
            clock.now += 10
            items.append(item)
    assert items == [1, 2]
    assert watch.taken() == {"steps": 20, "data": 6.5}


def test_a_phase_that_goes_on_is_counted_so_far(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.during("steps"):
        clock.now += 2
        assert watch.taken() == {"steps": 2}
        clock.now += 5
    assert watch.taken() == {"steps": 5}


def test_an_error_ends_its_phase(clock: Clock) -> None:
    def broken() -> Iterator[int]:
        clock.now += 1
        raise ValueError
        yield 0

    watch = Stopwatch()
    with pytest.raises(ValueError), watch.during("steps"):  # noqa: PT011 - it is our own
        list(watch.fetching(broken()))
    clock.now += 50
    assert watch.taken() == {"steps": 0, "data": 1}
