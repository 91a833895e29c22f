"""What the network's own code rules out, found by running it at other widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from architectures import ARCHITECTURES, IMAGE, Architecture
from hypothesis import given
from hypothesis import strategies as st
from networks import Branches, between, conv
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.tracing
from pruning import Budget, ChannelGraph, KeepPlan, remove_channels, select, trace
from pruning.errors import PlanError
from pruning.rehearsal.time_limit import OutOfTimeError
from pruning.rehearsal.verification import (
    Failure,
    Rehearse,
    Units,
    failing_groups,
    some_units,
    verified,
)
from pruning.selection import least_widths


def small_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 4, 2, 24, 36, num_classes=5)


def rehearsal_of(
    model: nn.Module, example: object, monkeypatch: pytest.MonkeyPatch
) -> tuple[ChannelGraph, Rehearse]:
    """The graph before it is held against the network, and what it is held against."""
    seen: list[tuple[ChannelGraph, Rehearse]] = []

    def keep(graph: ChannelGraph, rehearse: Rehearse, *_: object) -> ChannelGraph:
        seen.append((graph, rehearse))
        return graph

    monkeypatch.setattr(pruning.tracing, "verified", keep)
    trace(model, example)  # type: ignore[arg-type]
    return seen[-1]


def failing_by_bisection(names: Sequence[str], units: Units, rehearse: Rehearse) -> set[str]:
    """Groups that fail on their own, by halving whatever set fails."""
    if not names or not rehearse({name: units[name] for name in names}):
        return set()
    if len(names) == 1:
        return set(names)
    middle = len(names) // 2
    halves = names[:middle], names[middle:]
    return set().union(*(failing_by_bisection(half, units, rehearse) for half in halves))


@pytest.mark.parametrize(
    ("make", "example"),
    [
        *(pytest.param(a.make, a.example(), id=a.name) for a in ARCHITECTURES[::2]),
        pytest.param(small_transformer, torch.zeros(1, 3, 32, 32), id="vision transformer"),
    ],
)
def test_failures_are_the_ones_that_bisection_finds(
    make: Callable[[], nn.Module], example: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, rehearse = rehearsal_of(make(), example, monkeypatch)
    units = some_units(graph)
    assert set(failing_groups(units, rehearse)) == failing_by_bisection(
        list(units), units, rehearse
    )


NAMES = "abcdefgh"
SETS = st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=3)


@given(st.lists(SETS, max_size=4), st.data())
def test_as_few_groups_are_pinned_as_must_be(
    bad: list[frozenset[str]], data: st.DataObject
) -> None:
    """Whichever sets fail, each at a step of its own, and whoever else passes through that step."""
    others = [data.draw(st.frozensets(st.sampled_from(NAMES), max_size=3)) for _ in bad]

    def rehearse(units: Units) -> tuple[Failure, ...]:
        return tuple(
            Failure("why", tuple(sorted(units.keys() & (one | others[step]))), step)
            for step, one in enumerate(bad)
            if one <= units.keys()
        )

    pinned = set(failing_groups(dict.fromkeys(NAMES, 1), rehearse))
    assert all(pinned & one for one in bad)
    assert pinned <= set().union(*bad)
    assert {name for one in bad if len(one) == 1 for name in one} <= pinned


def test_a_hundred_equal_failures_take_as_many_runs_as_one() -> None:
    names = [f"group{number}" for number in range(100)]
    calls = []

    def rehearse(units: Units) -> tuple[Failure, ...]:
        calls.append(units)
        return tuple(Failure("why", (name,), names.index(name)) for name in units)

    assert failing_groups(dict.fromkeys(names, 1), rehearse).keys() == set(names)
    assert len(calls) < 6


@pytest.mark.parametrize("step_tells", [True, False])
def test_who_only_passes_through_a_failing_step_is_not_pinned(step_tells: bool) -> None:
    """The width of `b` goes into a reshape of `a`."""

    def rehearse(units: Units) -> tuple[Failure, ...]:
        suspects = tuple(name for name in units if step_tells or name == "a")
        return (Failure("why", suspects, 0),) if "b" in units else ()

    assert failing_groups({"a": 1, "b": 1, "c": 1}, rehearse) == {"b": "why"}


def test_groups_that_fail_together_do_not_pin_their_neighbours() -> None:
    layers = {f"conv{i}": conv(3 if i == 0 else 9, 9) for i in range(8)}

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        widths = []
        for name in layers:
            x = net.get_submodule(name)(x)
            widths.append(x.shape[1])
        return x * (2 if widths[1] < 9 and widths[5] < 9 else 1)

    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
    assert [g.name for g in graph.groups if g.pinned] == ["conv1", "conv5", "conv7"]


def test_a_width_taken_from_another_layer_of_that_width() -> None:
    """Removing as many channels from both would hide it."""

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        x = net.second(net.first(x))
        return net.last(x.view(1, net.first.out_channels, 8, 8))

    layers = {"first": conv(3, 6), "second": conv(6, 6), "last": conv(6, 4)}
    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
    assert graph.prunable == ()


def test_fewer_parts_than_at_full_width() -> None:
    graph = trace(between(lambda x: torch.cat(x.split(2, dim=1), dim=1)), torch.zeros(IMAGE))
    assert "size written into the network's code" in str(graph.group("first").pinned)


only_when_wide = pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda x: F.relu(x) if x.shape[1] >= 3 else x, 3),
        (lambda x: F.relu(x[:, : x.shape[1] // 4 * 4 or 1]) if x.shape[1] < 5 else F.relu(x), 5),
        (lambda x: x * (1 if x.shape[1] // 4 else 0), 4),
        (lambda x: x.squeeze().unsqueeze(0), 2),
        (lambda x: x.transpose(1, 2).reshape(1, 8, -1).view(1, 8, -1, 8).transpose(1, 2), 1),
    ],
    ids=["branch", "slice", "quotient", "squeeze", "reshape"],
)


@only_when_wide
def test_code_that_changes_at_a_few_channels(
    change: Callable[[Tensor], Tensor], least: int
) -> None:
    graph = trace(between(change, 12), torch.zeros(IMAGE))
    group = graph.group("first")
    assert (group.pinned, group.min_units) == (None, least)


def code_for_three() -> nn.Module:
    return between(lambda x: F.relu(x) if x.shape[1] >= 3 else x, 12)


def test_no_width_below_the_floor_is_offered() -> None:
    model = code_for_three()
    graph = trace(model, torch.zeros(IMAGE))
    assert least_widths(graph, ["first"], min_channels=1) == {"first": 3}
    scores = {"first": torch.arange(12.0)}
    floor = graph.cost({"first": 3}).flops
    plan = select(scores, graph, Budget.parse(f"flops<={floor}"), min_channels=1)
    assert plan.widths == {"first": 3}
    remove_channels(model, graph, plan)


def test_widths_below_the_floor_are_refused() -> None:
    model = code_for_three()
    graph = trace(model, torch.zeros(IMAGE))
    message = r"^group 'first' needs at least 3 channels, got 2: with fewer the network's code"
    with pytest.raises(PlanError, match=message):
        graph.cost({"first": 2})
    with pytest.raises(PlanError, match=message):
        remove_channels(model, graph, KeepPlan({"first": (0, 1)}))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_ordinary_code_works_with_one_unit(architecture: Architecture) -> None:
    assert {group.min_units for group in architecture.graph.groups} == {1}


def test_a_part_of_a_pinned_group_is_priced() -> None:
    """Of a pooling over 5 of 7 channels, which has no parameters along them."""

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        parts = net.first(x).split([2, 5], dim=1)
        return net.last(torch.cat([F.adaptive_avg_pool2d(part, (8, 8)) for part in parts], 1))

    model = Branches(wiring, first=conv(3, 7), last=conv(7, 4))
    cost = trace(model, torch.zeros(IMAGE)).cost()
    assert cost.flops == pruning.measure_cost(model, torch.zeros(IMAGE)).flops


def test_a_bound_that_comes_of_the_time_limit_says_so() -> None:
    """The network works with fewer channels; there was no time to find that out."""
    layers = [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 3)]
    graph = trace(nn.Sequential(*layers), torch.zeros(1, 3, 8, 8))

    def rehearse(units: Units) -> tuple[Failure, ...]:
        if 1 in units.values():
            raise OutOfTimeError(30, {})
        return ()

    stopped = verified(graph, rehearse)
    least = stopped.group("0").min_units
    assert (stopped.group("0").pinned, least) == (None, some_units(graph)["0"])
    stopped.cost({"0": least})
    reason = "tracing was stopped at 30 s, before it was known whether more can go"
    with pytest.raises(PlanError, match=f"needs at least {least} channels, .*: {reason}$"):
        stopped.cost({"0": least - 1})
    with pytest.raises(PlanError, match=f"{reason}$"):
        KeepPlan({"0": (0,)}).units_kept(stopped)
