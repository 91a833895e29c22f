"""Where the time of workers went."""

from __future__ import annotations

from typing import Any

import pytest

from search.results.wall_time import BESIDE, WAITING, WallTime, shares, shares_text

Event = dict[str, Any]


def event(kind: str, second: float, key: str = "", **content: object) -> Event:
    return {"event": kind, "time_ms": round(1000 * second), "key": key, **content}


def epoch(key: str, second: float, step: int, **seconds: float) -> Event:
    return event("epochs", second, key, records=[{"step": step, "seconds": seconds}])


def after(*events: Event) -> dict[str, float]:
    time = WallTime()
    for each in events:
        time.take(each)
    return time.seconds


FIRST = (
    event("launched", 100),
    event("started", 103, "a"),
    event("started", 104, "b"),
    epoch("a", 110, 1, steps=4, data=1),
    epoch("b", 111, 1, steps=5, evaluation=0.5),
    epoch("a", 114, 2, steps=3, checkpoint=0.25, report=0.125),
)


def test_two_workers_have_twice_the_time_and_every_second_of_it_is_somewhere() -> None:
    seconds = after(
        *FIRST, event("finished", 115, "a"), event("ended", 118, "b"), event("concluded", 120)
    )
    assert seconds == {
        **{"steps": 12, "data": 1, "evaluation": 0.5, "checkpoint": 0.25, "report": 0.125},
        BESIDE: 12 + 14 - 13.875,
        WAITING: 2 * 18 - 26,  # up to the end of the last job
    }
    assert sum(seconds.values()) == 36
    assert sum(shares(seconds).values()) == pytest.approx(1)


def test_what_runs_counts_so_far() -> None:
    seconds = after(*FIRST)
    assert sum(seconds.values()) == 2 * 14
    assert seconds[WAITING] == 28 - (11 + 10)


def test_what_a_killed_process_did_again_and_was_told_again_counts_as_time_alone() -> None:
    """Nobody works between the last event of a process and the first of the next."""
    again = [{"step": 1, "seconds": {"steps": 4, "data": 1}}]
    again += [{"step": 2, "seconds": {"steps": 3, "checkpoint": 0.25, "report": 0.125}}]
    seconds = after(
        *FIRST,
        event("launched", 1000),
        event("started", 1001, "a"),
        event("epochs", 1002, "a", records=again),
        epoch("a", 1006, 3, steps=1),
        event("finished", 1007, "a"),
    )
    assert seconds["steps"] == 13
    assert sum(seconds.values()) == 2 * (14 + 7)
    assert seconds[WAITING] == 2 * 21 - (11 + 10 + 6)


def test_searches_that_did_not_say_have_nothing() -> None:
    assert after() == {}
    silent = [{"step": 1}]
    assert after(*FIRST[:2], event("epochs", 105, "a", records=silent)) == {}
    assert shares({}) == {}
    assert shares_text({}) == ""


def test_shares_are_told_in_words() -> None:
    seconds = {"steps": 93.2, "data": 2.14, BESIDE: 4.66}
    assert shares_text(seconds) == "93 % training steps, 2.1 % data, 4.7 % beside epochs"
