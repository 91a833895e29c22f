"""Pauses that grow while something fails."""

import pytest

from search.system import backoff as module
from search.system.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now

    monkeypatch.setattr(module, "time", Time)
    pauses = Backoff(2.0, 7.0)
    assert not pauses.is_pausing
    assert [pauses.fail() for _ in range(4)] == [2.0, 4.0, 7.0, 7.0]
    now = 106.9
    assert pauses.is_pausing
    now = 107.0
    assert not pauses.is_pausing
    pauses.fail()
    pauses.reset()
    assert not pauses.is_pausing
    assert pauses.fail() == 2.0
