"""The clock of a trace, with a time of its own."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest
import torch
from architectures import IMAGE
from networks import Branches, conv
from torch import Tensor, nn

from pruning import trace
from pruning.rehearsal import time_limit
from pruning.rehearsal.time_limit import Clock, OutOfTimeError, to_terminal
from pruning.tracing import whole_trace


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


def test_during_a_run_people_are_told_every_second(advance: Callable[[float], None]) -> None:
    told: list[str] = []
    clock = Clock(30, told.append)
    for _ in range(5):
        advance(0.75)
        clock.tick()
    assert told == [
        f"tracing: running the network as it is ({seconds} s of at most 30 s)" for seconds in (2, 4)
    ]


def test_by_default_it_takes_at_most_30_s_and_is_told_on_the_terminal() -> None:
    defaults = {name: p.default for name, p in inspect.signature(trace).parameters.items()}
    assert (defaults["time_limit"], defaults["progress"]) == (30, to_terminal)


class Screen(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal


on_terminal_and_off = pytest.mark.parametrize("is_terminal", [True, False])


@on_terminal_and_off
def test_lines_are_written_over_each_other_on_a_terminal_alone(*, is_terminal: bool) -> None:
    screen = Screen(is_terminal=is_terminal)
    with redirect_stderr(screen):
        to_terminal("one")
        to_terminal("")
    clear = "\r\x1b[2K"
    assert screen.getvalue() == (f"{clear}one\r{clear}\r" if is_terminal else "")


def reading(net: nn.Module, x: Tensor) -> Tensor:
    """Cannot run on meta tensors: it is run on real ones first."""
    x = net.slow(net.first(x))
    return net.last(x * (x.mean().item() > -1e9))


@on_terminal_and_off
@pytest.mark.parametrize("tracing", [trace, whole_trace])
@pytest.mark.parametrize(
    "wiring", [lambda net, x: net.last(net.slow(net.first(x))), reading], ids=["meta", "real"]
)
def test_a_slow_network_is_told_of_in_its_first_run(
    advance: Callable[[float], None],
    tracing: Callable[..., object],
    wiring: Callable[[nn.Module, Tensor], Tensor],
    *,
    is_terminal: bool,
) -> None:
    screen = Screen(is_terminal=is_terminal)
    lines_at_the_end_of_runs: list[str] = []

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            advance(3)
            x = x.relu()
            lines_at_the_end_of_runs.append(screen.getvalue())
            return x

    model = Branches(wiring, first=conv(3, 8), slow=Slow(), last=conv(8, 4))
    with redirect_stderr(screen):
        tracing(model, torch.zeros(IMAGE))
    first = lines_at_the_end_of_runs[0]
    assert ("tracing: running the network as it is (3 s" in first) == is_terminal
    assert ("looking for sizes" in screen.getvalue()) == is_terminal
    assert screen.getvalue().endswith("\r\x1b[2K\r") == is_terminal
