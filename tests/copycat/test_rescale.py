"""Members of a family fill their budget, and the next member would exceed it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from architectures import BY_NAME
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat import WidthProfile, build, rescale, uniform_profile
from copycat.families.width_series import find_alpha, scaled
from pruning import Bound, Budget, ChannelGraph, measure_cost
from pruning.errors import UnreachableBudgetError

NAMES = ("chain", "dense block", "group normalisation", "channel shuffle", "squeeze-excitation")


@st.composite
def profiles(draw: st.DrawFn, graph: ChannelGraph, most_units: int = 60) -> WidthProfile:
    """Any widths, also above those of the base network, for some or all of the groups."""
    widths = {}
    for group in graph.prunable:
        if draw(st.booleans()) or not widths:
            widths[group.name] = group.unit * draw(st.integers(1, most_units))
    return WidthProfile(widths)


def units(graph: ChannelGraph, profile: WidthProfile) -> dict[str, int]:
    return {name: width // graph.group(name).unit for name, width in profile.widths.items()}


def next_member(graph: ChannelGraph, base: WidthProfile, member: WidthProfile) -> WidthProfile:
    """The family's next larger one, in exact arithmetic.

    A group of n units grows where α times its base units passes n + 1/2.
    """
    now, full = units(graph, member), units(graph, base)
    steps = {name: (now[name] + Fraction(1, 2)) / full[name] for name in now}
    alpha = min(steps.values())
    grown = {name: now[name] + (step == alpha) for name, step in steps.items()}
    return WidthProfile({name: grown[name] * graph.group(name).unit for name in grown})


@given(data=st.data())
def test_the_budget_is_filled(data: st.DataObject) -> None:
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    profile = data.draw(profiles(graph))
    graph = graph.pruning(profile.widths)
    quantity = data.draw(st.sampled_from(Budget.QUANTITIES))
    least = getattr(graph.cost(scaled(profile, graph, 0).widths), quantity)
    most = getattr(graph.cost(scaled(profile, graph, 3).widths), quantity)
    budget = Budget((Bound(quantity, data.draw(st.integers(least, most))),))
    member = rescale(profile, graph, budget)
    assert budget.allows(graph.cost(member.widths))
    assert not budget.allows(graph.cost(next_member(graph, profile, member).widths))


@given(data=st.data())
def test_a_budget_of_its_own_cost_gives_back_the_profile(data: st.DataObject) -> None:
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    profile = data.draw(profiles(graph, most_units=300))
    for quantity in ("flops", "params", "weight_bytes"):
        cost = getattr(graph.cost(profile.widths), quantity)
        assert rescale(profile, graph, Budget((Bound(quantity, cost),))) == profile


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_every_rounding_step_is_taken(width: int, grown: int) -> None:
    """α = (k + 1/2) / width makes k + 1 channels, though α·width may round to just below."""
    graph = BY_NAME["chain"].graph
    alpha = (grown + 0.5) / width
    assert scaled(WidthProfile({"conv1": width}), graph, alpha).widths["conv1"] == grown + 1


@given(st.integers(1, 300), st.floats(0, 4))
def test_rounding_is_half_up_to_units_and_never_to_nothing(units: int, alpha: float) -> None:
    graph = BY_NAME["group normalisation"].graph
    width = scaled(WidthProfile({"first": 3 * units}), graph, alpha).widths["first"]
    assert width == 3 * max(
        1, math.floor(Fraction(alpha) * units + Fraction(1, 2) + Fraction(1, 10**9))
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=2)
@given(data=st.data())
def test_built_members_meet_the_budget_by_fvcores_count(name: str, data: st.DataObject) -> None:
    architecture = BY_NAME[name]
    graph = architecture.graph
    profile = data.draw(profiles(graph, most_units=20))
    budget = Budget.parse(f"flops={data.draw(st.integers(70, 100))}%").absolute(graph.cost())
    member = rescale(profile, graph, budget)
    network = build(architecture.make(), member, architecture.example(), graph=graph)
    assert budget.allows(measure_cost(network, architecture.example()))


def test_a_member_may_be_wider_than_the_base_network() -> None:
    graph = BY_NAME["chain"].graph
    budget = Budget((Bound("params", 9 * graph.cost().params),))
    member = rescale(WidthProfile.of(graph), graph, budget)
    assert all(width > graph.widths[name] for name, width in member.widths.items())
    assert graph.cost(member.widths).params > 8 * graph.cost().params


def test_channels_are_those_of_the_profile() -> None:
    """conv1 of 6 channels and conv2 of 5; a graph that says what is pruned is heeded."""
    graph, budget = BY_NAME["chain"].graph, Budget.parse("channels=50%")
    assert rescale(WidthProfile({"conv1": 6}), graph, budget).widths == {"conv1": 3}
    both = graph.pruning(["conv1", "conv2"])
    assert rescale(WidthProfile({"conv1": 6}), both, budget).widths == {"conv1": 1}


def test_every_bound_is_met() -> None:
    graph = BY_NAME["chain"].graph
    profile = WidthProfile.of(graph)
    flops, params = Budget.parse("flops=60%"), Budget.parse("params=40%")
    both = rescale(profile, graph, Budget.parse("flops=60%", "params=40%"))
    alone = [find_alpha(profile, graph, budget) for budget in (flops, params)]
    assert both == scaled(profile, graph, min(alone))


def test_groups_outside_the_profile_keep_their_width() -> None:
    graph = BY_NAME["chain"].graph
    member = rescale(WidthProfile({"conv1": 6}), graph, Budget.parse("flops=50%"))
    assert list(member.widths) == ["conv1"]
    assert graph.cost(member.widths).flops <= graph.cost().flops // 2


def test_the_uniform_profile_narrows_by_one_factor() -> None:
    graph = BY_NAME["dense block"].graph
    names = tuple(group.name for group in graph.prunable)
    budget = Budget.parse("params=50%")
    alpha = find_alpha(WidthProfile.of(graph), graph, budget)
    widths = uniform_profile(graph, names, budget).widths
    assert widths == {n: max(1, math.floor(alpha * graph.widths[n] + 0.5)) for n in names}
    assert uniform_profile(graph, names, Budget.parse("flops=100%")) == WidthProfile.of(graph)


def test_a_profile_of_nothing_fits_any_budget_that_the_network_fits() -> None:
    graph = BY_NAME["chain"].graph
    assert rescale(WidthProfile({}), graph, Budget.parse("flops=100%")) == WidthProfile({})
    with pytest.raises(UnreachableBudgetError):
        rescale(WidthProfile({}), graph, Budget.parse("flops=99%"))


def test_an_unreachable_budget_names_the_nearest_cost() -> None:
    graph = BY_NAME["group normalisation"].graph
    least = graph.cost({"first": 3}).flops
    message = rf"flops of at most {least - 1:,} \(nearest reachable: {least:,}\)"
    with pytest.raises(UnreachableBudgetError, match=message):
        rescale(WidthProfile.of(graph), graph, Budget((Bound("flops", least - 1),)))


def test_rescaling_keeps_to_a_divisor() -> None:
    graph = BY_NAME["channel shuffle"].graph  # 8 and 12 channels, in twos
    member = rescale(WidthProfile.of(graph), graph, Budget.parse("params=70%"), divisor=4)
    assert all(width % 4 == 0 for width in member.widths.values())
    narrowed = uniform_profile(graph, ("first",), Budget.parse("params=70%"), divisor=4)
    assert narrowed.widths["first"] % 4 == 0
