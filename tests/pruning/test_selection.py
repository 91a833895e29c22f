"""Which channels stay: the budget is met, no more than needed goes, no floor is broken."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import BY_NAME
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import Bound, Budget, ChannelGraph, KeepPlan, select, trace
from pruning.errors import BudgetError, PlanError, UnreachableBudgetError
from pruning.rules import Rules
from pruning.selection import (
    absolute_limits,
    least_widths,
    removal_order,
    unreachable,
)
from search import models

NAMES = (
    "dense block",
    "inception",
    "group normalisation",
    "channel shuffle",
    "attention",
    "pixel shuffle",
    "projected shortcut",
    "squeeze-excitation",
)

RULES = st.fixed_dictionaries(
    {
        "min_channels": st.integers(1, 3),
        "divisor": st.sampled_from((1, 1, 2, 3, 4, 8)),
        "scope": st.sampled_from(("global", "uniform")),
        "residual": st.booleans(),
    }
)


def drawn_graph(data: st.DataObject) -> ChannelGraph:
    """One whose costs count the channels of all that can be pruned."""
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    return graph.pruning(group.name for group in graph.prunable)


def share_of_channels(share: float) -> Budget:
    return Budget((Bound("channels", share, is_share=True),))


def drawn_scores(data: st.DataObject, graph: ChannelGraph) -> dict[str, Tensor]:
    """Scores from -5 to 5, about half of them one of 0, 1, 2 and 3."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    return {
        group.name: torch.from_numpy(
            np.where(
                random.random(group.width) < 0.5,
                random.integers(0, 4, group.width),
                random.uniform(-5, 5, group.width),
            )
        )
        for group in graph.prunable
    }


def distinct_scores(graph: ChannelGraph) -> dict[str, Tensor]:
    """No two channels of the network score the same, nor do two units."""
    numbers = iter(torch.rand(10_000, generator=torch.Generator().manual_seed(0)).double())
    return {
        group.name: torch.stack(list(itertools.islice(numbers, group.width)))
        for group in graph.prunable
    }


def unit_scores(graph: ChannelGraph, name: str, scores: Tensor) -> list[float]:
    """The mean per unit, computed one by one."""
    group = graph.group(name)
    return [
        float(scores[torch.from_numpy(group.unit_of_channel == unit)].mean())
        for unit in range(group.num_units)
    ]


def kept_units(graph: ChannelGraph, plan: KeepPlan) -> dict[str, set[int]]:
    return {
        name: set(graph.group(name).unit_of_channel[list(channels)].tolist())
        for name, channels in plan.keep.items()
    }


def reachable_widths(group: Any, rules: dict[str, Any]) -> list[int]:
    """By brute force: the full width, and every multiple that is not below the floor."""
    if group.residual and not rules["residual"]:
        return [group.width]
    return [
        width
        for width in range(1, group.width + 1)
        if width == group.width
        or (
            width % rules["divisor"] == 0
            and width % group.unit == 0
            and width >= max(rules["min_channels"], group.min_units * group.unit)
        )
    ]


def least_cost(graph: ChannelGraph, rules: dict[str, Any]) -> Any:
    return graph.cost({g.name: reachable_widths(g, rules)[0] for g in graph.prunable})


def drawn_budget(data: st.DataObject, graph: ChannelGraph, rules: dict[str, Any]) -> Budget:
    quantity = data.draw(st.sampled_from(Budget.QUANTITIES))
    least, most = (getattr(cost, quantity) for cost in (least_cost(graph, rules), graph.cost()))
    return Budget((Bound(quantity, data.draw(st.integers(least, most))),))


@given(data=st.data(), rules=RULES)
def test_the_budget_is_met_within_the_rules(data: st.DataObject, rules: dict[str, Any]) -> None:
    graph = drawn_graph(data)
    scores = drawn_scores(data, graph)
    budget = drawn_budget(data, graph, rules)

    plan = select(scores, graph, budget, **rules)

    assert budget.allows(graph.cost(plan.widths))
    pruned = [g for g in graph.prunable if rules["residual"] or not g.residual]
    assert list(plan.keep) == [group.name for group in pruned]
    for group in pruned:
        assert plan.widths[group.name] in reachable_widths(group, rules)
        assert plan.keep[group.name] == tuple(sorted(set(plan.keep[group.name])))
    _assert_lowest_went(graph, scores, plan)


def _assert_lowest_went(graph: ChannelGraph, scores: dict[str, Tensor], plan: KeepPlan) -> None:
    """Within a group no kept unit scores below a removed one; of equal ones the first go."""
    for name, kept in kept_units(graph, plan).items():
        values = unit_scores(graph, name, scores[name])
        ranked = sorted(range(len(values)), key=lambda unit: (values[unit], unit))
        assert set(ranked[len(values) - len(kept) :]) == kept


def last_chunks(
    graph: ChannelGraph, scores: dict[str, Tensor], plan: KeepPlan, rules: dict[str, Any]
) -> dict[str, tuple[float, int]]:
    """Per group that lost something: the level at which it last did, and the width before."""
    found = {}
    for name, kept in kept_units(graph, plan).items():
        group = graph.group(name)
        widths = reachable_widths(group, rules)
        width = plan.widths[name]
        if width == group.width:
            continue
        before = widths[widths.index(width) + 1]
        if rules["scope"] == "uniform":
            found[name] = ((group.width - width) / group.width, before)
        else:
            values = unit_scores(graph, name, scores[name])
            gone = sorted(v for unit, v in enumerate(values) if unit not in kept)
            chunk = gone[len(gone) - (before - width) // group.unit :]
            found[name] = (sum(chunk) / len(chunk), before)
    return found


@given(data=st.data(), rules=RULES)
def test_the_last_removal_was_needed(data: st.DataObject, rules: dict[str, Any]) -> None:
    graph = drawn_graph(data)
    scores = distinct_scores(graph)
    budget = drawn_budget(data, graph, rules)
    plan = select(scores, graph, budget, **rules)
    chunks = last_chunks(graph, scores, plan, rules)
    if chunks:
        last = max(level for level, _ in chunks.values())
        back = {name: before for name, (level, before) in chunks.items() if level == last}
        assert not budget.allows(graph.cost({**plan.widths, **back}))


@given(data=st.data(), rules=RULES)
def test_no_chunk_that_stays_ranks_below_one_that_went(
    data: st.DataObject, rules: dict[str, Any]
) -> None:
    graph = drawn_graph(data)
    scores = distinct_scores(graph)
    plan = select(scores, graph, drawn_budget(data, graph, rules), **rules)
    went = [level for level, _ in last_chunks(graph, scores, plan, rules).values()]
    for name, kept in kept_units(graph, plan).items():
        group, width = graph.group(name), plan.widths[name]
        narrower = [w for w in reachable_widths(group, rules) if w < width]
        if not went or not narrower:
            continue
        values = sorted(unit_scores(graph, name, scores[name])[unit] for unit in kept)
        chunk = values[: (width - narrower[-1]) // group.unit]
        by_score = sum(chunk) / len(chunk)
        by_share = (group.width - narrower[-1]) / group.width
        assert (by_share if rules["scope"] == "uniform" else by_score) > max(went)


@given(data=st.data(), rules=RULES)
def test_a_smaller_budget_keeps_a_subset(data: st.DataObject, rules: dict[str, Any]) -> None:
    graph = drawn_graph(data)
    scores = drawn_scores(data, graph)
    least, most = least_cost(graph, rules).flops, graph.cost().flops
    low, high = sorted(data.draw(st.tuples(*[st.integers(least, most)] * 2)))
    less, more = (
        select(scores, graph, Budget((Bound("flops", limit),)), **rules) for limit in (low, high)
    )
    assert all(set(less.keep[name]) <= set(more.keep[name]) for name in more.keep)


@given(data=st.data(), rules=RULES)
def test_the_order_of_the_channels_does_not_matter(
    data: st.DataObject, rules: dict[str, Any]
) -> None:
    """Units that swap their scores swap their fates."""
    graph = drawn_graph(data)
    scores = distinct_scores(graph)
    budget = drawn_budget(data, graph, rules)
    swapped, swaps = {}, {}
    for name, values in scores.items():
        group = graph.group(name)
        random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        swaps[name] = random.permutation(group.num_units).tolist()
        swapped[name] = values.clone()
        for unit, origin in enumerate(swaps[name]):
            swapped[name][group.unit_of_channel == unit] = values[group.unit_of_channel == origin]
    expected = kept_units(graph, select(scores, graph, budget, **rules))
    found = kept_units(graph, select(swapped, graph, budget, **rules))
    assert {name: {swaps[name][u] for u in kept} for name, kept in found.items()} == expected


@given(data=st.data(), rules=RULES, share=st.floats(0.001, 1))
def test_so_many_channels_stay_as_remain_when_those_that_go_are_rounded_down(
    data: st.DataObject, rules: dict[str, Any], share: float
) -> None:
    """One more chunk, and there would be fewer; of each layer that produces it a channel counts."""
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    scores = distinct_scores(graph)
    rules["scope"] = "global"
    pruned = [g for g in graph.prunable if rules["residual"] or not g.residual]
    layers = {group.name: len(group.producers) for group in pruned}
    total = sum(group.width * layers[group.name] for group in pruned)
    least = sum(reachable_widths(g, rules)[0] * layers[g.name] for g in pruned)
    limit = total - math.floor((1 - share) * total + 1e-6)
    if least > limit:
        with pytest.raises(UnreachableBudgetError, match=f"channels .*reachable: {least:,}"):
            select(scores, graph, share_of_channels(share), **rules)
        return
    plan = select(scores, graph, share_of_channels(share), **rules)
    left = sum(plan.widths[g.name] * layers[g.name] for g in pruned)
    assert left <= limit
    chunks = last_chunks(graph, scores, plan, rules)
    if chunks:
        last = max(chunks, key=lambda name: chunks[name][0])
        assert left + (chunks[last][1] - plan.widths[last]) * layers[last] > limit


def units_in(graph: ChannelGraph, plan: KeepPlan) -> int:
    return sum(len(kept) for kept in kept_units(graph, plan).values())


@given(data=st.data(), rules=RULES, share=st.floats(0.001, 1))
def test_a_uniform_share_of_channels_is_each_groups_own(
    data: st.DataObject, rules: dict[str, Any], share: float
) -> None:
    """The narrowest width that still keeps the share, or the floor."""
    graph = drawn_graph(data)
    rules["scope"] = "uniform"
    plan = select(distinct_scores(graph), graph, share_of_channels(share), **rules)
    for name, width in plan.widths.items():
        group = graph.group(name)
        enough = share * group.width - 1e-6
        assert width == next(w for w in reachable_widths(group, rules) if w >= enough)


def test_a_plan_among_the_channels_of_a_larger_one_is_the_inverse_of_within() -> None:
    larger = KeepPlan({"a": (1, 3, 4, 7), "b": (0, 2)})
    smaller = KeepPlan({"a": (3, 7), "b": (2,)})
    assert smaller.within(larger).keep == {"a": (1, 3), "b": (1,)}
    assert smaller.within(larger).among(larger) == smaller
    assert KeepPlan({"c": (5,)}).among(KeepPlan({"a": (1, 3)})).keep == {"a": (1, 3), "c": (5,)}


@given(data=st.data(), rules=RULES)
def test_shares_are_uniform_to_within_one_step(data: st.DataObject, rules: dict[str, Any]) -> None:
    """One share explains all widths: what is gone is at most it, and one step more is above."""
    graph = drawn_graph(data)
    rules["scope"] = "uniform"
    plan = select(drawn_scores(data, graph), graph, drawn_budget(data, graph, rules), **rules)
    gone, next_step = [0.0], []
    for name, width in plan.widths.items():
        group = graph.group(name)
        gone.append((group.width - width) / group.width)
        next_step += [
            (group.width - w) / group.width for w in reachable_widths(group, rules) if w < width
        ][-1:]
    assert all(max(gone) < share for share in next_step)


@functools.cache
def cifar_graph(make: Callable[[], nn.Module]) -> ChannelGraph:
    return trace(make(), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("make", "budget", "flops_percent"),
    [
        (models.vgg16, "channels=50%", 25.19),
        (models.vgg16, "channels=10%", 1.13),
        (models.resnet56, "channels=50%", 50.39),
        (models.resnet56, "channels=10%", 14.79),
    ],
)
def test_filters_are_counted_as_in_the_rni_paper(
    make: Any, budget: str, flops_percent: float
) -> None:
    """Remaining FLOPs of UCS in its Table 2 (CIFAR10), for 50 % and 90 % of filters pruned."""
    graph, target = cifar_graph(make), Budget.parse(budget)
    plan = select(distinct_scores(graph), graph, target, scope="uniform", residual=False)
    remaining = graph.cost(plan.widths).flops / graph.cost().flops
    assert round(100 * remaining, 2) == flops_percent


def test_filters_of_all_layers_are_counted_where_streams_are_pruned() -> None:
    """Their channels count once per layer that makes them, so all convolutions are counted."""
    graph = BY_NAME["identity shortcut"].graph  # stem (6, with b) and a (5): 17 filters
    scores = {"stem": torch.arange(6.0), "a": torch.arange(10.0, 15.0)}
    for left, widths in [
        (17, {"stem": 6, "a": 5}),
        (16, {"stem": 5, "a": 5}),
        (15, {"stem": 5, "a": 5}),
        (12, {"stem": 3, "a": 5}),
        (6, {"stem": 1, "a": 4}),
    ]:
        for target in (Budget.parse(f"channels={left}"), share_of_channels(left / 17)):
            assert select(scores, graph, target, min_channels=1).widths == widths
    target = Budget.parse("channels=40%")
    only = select(scores, graph, target, min_channels=1, residual=False)
    assert only.widths == {"a": 2}


def test_a_graph_that_says_what_is_pruned_counts_that_alone(graph: ChannelGraph) -> None:
    told = graph.pruning(["conv2"])
    assert told.cost().channels == 5
    assert told.cost({"conv1": 3, "conv2": 4}).channels == 4
    assert graph.cost().channels is None
    scores = {"conv1": torch.zeros(6), "conv2": torch.ones(5)}
    assert select(scores, told, Budget.parse("channels=4")).widths == {"conv1": 3, "conv2": 4}
    with pytest.raises(BudgetError, match=r"channels .* not known.*say which groups are pruned"):
        Budget.parse("channels=50%").absolute(graph.cost())


def test_limits_say_what_a_uniform_share_leaves(graph: ChannelGraph) -> None:
    """Of 6 and 5 channels 40 % are 3 and 2; at least 3 stay of each by default."""
    told, names = graph.pruning(["conv1", "conv2"]), ["conv1", "conv2"]
    budget = Budget.parse("channels=40%", "flops=50%")
    flops = math.floor(graph.cost().flops * 0.5)
    for rules, channels in [
        (Rules(1, scope="uniform"), 5),
        (Rules(3, scope="uniform"), 6),
        (Rules(1, scope="global"), 5),
        (Rules(1, divisor=4, scope="uniform"), 8),
    ]:
        limits = absolute_limits(budget, told, names, rules)
        assert limits == Budget((Bound("channels", channels), Bound("flops", flops)))


def test_channels_and_flops_hold_together(graph: ChannelGraph, scores: dict[str, Tensor]) -> None:
    tight = graph.cost({"conv1": 4, "conv2": 3})
    for channels, flops in ((7, 10**9), (11, tight.flops)):
        target = Budget((Bound("channels", channels), Bound("flops", flops)))
        assert select(scores, graph, target).widths == {"conv1": 4, "conv2": 3}


@given(data=st.data(), rules=RULES)
def test_removing_in_order_gives_what_select_gives(
    data: st.DataObject, rules: dict[str, Any]
) -> None:
    graph = drawn_graph(data)
    scores = drawn_scores(data, graph)
    plan = select(scores, graph, drawn_budget(data, graph, rules), **rules)
    order = removal_order(scores, graph, **rules)
    total = sum(graph.group(name).num_units for name in plan.keep)
    gone = {
        (name, unit)
        for name, kept in kept_units(graph, plan).items()
        for unit in set(range(graph.group(name).num_units)) - kept
    }
    assert set(order[: total - units_in(graph, plan)]) == gone
    assert len(set(order)) == len(order)


@given(data=st.data(), rules=RULES)
def test_the_order_goes_on_after_a_removal(data: st.DataObject, rules: dict[str, Any]) -> None:
    """Whatever scores say of what is gone, NaN even."""
    graph = drawn_graph(data)
    scores = drawn_scores(data, graph)
    plan = select(scores, graph, drawn_budget(data, graph, rules), **rules)
    order = removal_order(scores, graph, **rules)
    num_gone = sum(graph.group(n).num_units for n in plan.keep) - units_in(graph, plan)
    for name, kept in plan.keep.items():
        lost = torch.ones(graph.group(name).width, dtype=torch.bool)
        lost[list(kept)] = False
        scores[name][lost] = math.nan
    rest = removal_order(scores, graph, kept=plan, **rules)
    # Chunk by chunk; the two may differ only in how equal levels, rounded, are ordered.
    assert set(rest) == set(order[num_gone:])
    if rules["divisor"] == 1:
        assert rest == order[num_gone:]


def test_floors_hold_for_what_earlier_removals_left(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    kept = KeepPlan({"conv1": (0, 1, 2, 3), "conv2": (0, 1)})
    assert removal_order(scores, graph, kept=kept) == [("conv1", 1)]
    assert removal_order(scores, graph, kept=kept, min_channels=1) == [
        ("conv1", 1),
        ("conv2", 0),
        ("conv1", 3),
        ("conv1", 2),
    ]
    # From an odd width, a divisor first leads back to a multiple.
    odd = KeepPlan({"conv1": (0, 1, 2, 3, 4), "conv2": (0, 1)})
    assert removal_order(scores, graph, kept=odd, min_channels=1, divisor=2) == [
        ("conv1", 1),
        ("conv1", 3),
        ("conv1", 2),
    ]
    with pytest.raises(PlanError, match="keeps channel 6"):
        removal_order(scores, graph, kept=KeepPlan({"conv1": (6,)}))


@pytest.fixture
def graph() -> ChannelGraph:
    return BY_NAME["chain"].graph  # conv1 of 6 channels, conv2 of 5


@pytest.fixture
def scores() -> dict[str, Tensor]:
    return {
        "conv1": torch.tensor([0.6, 0.1, 0.5, 0.2, 0.9, 0.3]),
        "conv2": torch.tensor([0.15, 0.7, 0.8, 0.25, 0.35]),
    }


def removed(graph: ChannelGraph, plan: KeepPlan) -> dict[str, set[int]]:
    return {
        name: set(range(graph.group(name).width)) - set(channels)
        for name, channels in plan.keep.items()
    }


@pytest.mark.parametrize(
    ("expected", "widths"),
    [
        ({"conv1": set(), "conv2": set()}, {"conv1": 6, "conv2": 5}),
        ({"conv1": {1}, "conv2": set()}, {"conv1": 5, "conv2": 5}),
        ({"conv1": {1}, "conv2": {0}}, {"conv1": 5, "conv2": 4}),
        ({"conv1": {1, 3}, "conv2": {0}}, {"conv1": 4, "conv2": 4}),
        ({"conv1": {1, 3}, "conv2": {0, 3}}, {"conv1": 4, "conv2": 3}),
        ({"conv1": {1, 3, 5}, "conv2": {0, 3}}, {"conv1": 3, "conv2": 3}),
    ],
)
def test_channels_of_all_groups_go_in_the_order_of_their_scores(
    graph: ChannelGraph, scores: dict[str, Tensor], expected: object, widths: dict[str, int]
) -> None:
    budget = Budget((Bound("flops", graph.cost(widths).flops),))
    assert removed(graph, select(scores, graph, budget)) == expected


def test_every_bound_is_met(graph: ChannelGraph, scores: dict[str, Tensor]) -> None:
    tight = graph.cost({"conv1": 4, "conv2": 3})
    for bounds in (
        (Bound("flops", tight.flops), Bound("params", 10**9)),
        (Bound("flops", 10**9), Bound("params", tight.params)),
    ):
        assert select(scores, graph, Budget(bounds)).widths == {"conv1": 4, "conv2": 3}


def test_shares_refer_to_the_traced_network(graph: ChannelGraph, scores: dict[str, Tensor]) -> None:
    assert select(scores, graph, Budget.parse("flops=100%")).widths == {"conv1": 6, "conv2": 5}
    half = select(scores, graph, Budget.parse("flops=50%"), min_channels=1)
    assert graph.cost(half.widths).flops <= graph.cost().flops / 2


def test_equal_scores_go_in_the_order_of_the_network(graph: ChannelGraph) -> None:
    scores = {"conv2": torch.ones(5), "conv1": torch.ones(6)}
    budget = Budget((Bound("flops", graph.cost({"conv1": 4}).flops),))
    plan = select(scores, graph, budget)
    assert removed(graph, plan) == {"conv1": {0, 1}, "conv2": set()}
    assert list(plan.keep) == ["conv1", "conv2"]


def test_equal_scores_do_not_break_the_floor(graph: ChannelGraph) -> None:
    scores = {"conv1": torch.zeros(6), "conv2": torch.zeros(5)}
    for floor in range(1, 6):
        least = least_widths(graph, scores, min_channels=floor)
        assert least == {"conv1": floor, "conv2": floor}
        budget = Budget((Bound("flops", graph.cost(least).flops),))
        assert select(scores, graph, budget, min_channels=floor).widths == least


def test_a_uniform_order_counts_what_is_gone_already(graph: ChannelGraph) -> None:
    """conv1 (6 wide) stands at 3/6, so the next one takes it to 4/6; conv2 goes from 1/5 on."""
    scores = {"conv1": torch.arange(6.0), "conv2": torch.arange(5.0)}
    kept = KeepPlan({"conv1": (3, 4, 5)})
    order = removal_order(scores, graph, kept=kept, scope="uniform", min_channels=1)
    assert order == [
        *[("conv2", 0), ("conv2", 1), ("conv2", 2)],
        *[("conv1", 3), ("conv2", 3), ("conv1", 4)],
    ]


def test_shares_forgive_rounding(graph: ChannelGraph) -> None:
    """1 - 0.4 is a little more than 3/5."""
    scores = {"conv2": torch.arange(5.0)}
    for scope in ("global", "uniform"):
        target = share_of_channels(1 - 0.4 + 1e-12)
        assert select(scores, graph, target, scope=scope).widths == {"conv2": 3}


def test_chunks_are_ranked_by_the_mean_of_their_scores(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    """conv1: (0.15 + 0.2) / 2, (0.3 + 0.5) / 2; conv2, 5 wide: 0.15, then (0.25 + 0.35) / 2."""
    scores["conv1"][1] = 0.15
    order = removal_order(scores, graph, divisor=2, min_channels=1)
    assert order == [
        *[("conv2", 0)],
        *[("conv1", 1), ("conv1", 3)],
        *[("conv2", 3), ("conv2", 4)],
        *[("conv1", 5), ("conv1", 2)],
    ]
    assert removal_order(scores, graph, divisor=2) == order[:3]


def test_the_floor_is_rounded_up_to_the_divisor(graph: ChannelGraph) -> None:
    names = ("conv1", "conv2")
    assert least_widths(graph, names, divisor=2) == {"conv1": 4, "conv2": 4}
    assert least_widths(graph, names, divisor=4) == {"conv1": 4, "conv2": 4}
    assert least_widths(graph, names, divisor=6) == {"conv1": 6, "conv2": 5}
    assert least_widths(graph, names, divisor=8) == {"conv1": 6, "conv2": 5}
    normalised = BY_NAME["group normalisation"].graph  # 12 channels in units of 3
    assert least_widths(normalised, ["first"], divisor=2) == {"first": 6}


def test_the_least_widths_are_what_select_can_reach() -> None:
    graph = BY_NAME["projected shortcut"].graph
    names = [group.name for group in graph.groups]
    assert least_widths(graph, names) == {"stem": 3, "short": 3, "a": 3}
    assert least_widths(graph, names, residual=False) == {"stem": 3, "a": 3}


def test_residual_streams_stay_whole_on_demand() -> None:
    """Their scores are not even looked at."""
    graph = BY_NAME["projected shortcut"].graph
    scores = distinct_scores(graph) | {"short": torch.full((7,), math.nan)}
    plan = select(scores, graph, Budget.parse("flops=60%"), residual=False)
    assert set(plan.keep) == {"stem", "a"}
    with pytest.raises(PlanError, match="'short' has a score that is not a number"):
        select(scores, graph, Budget.parse("flops=60%"))


def test_a_uniform_share_is_the_same_for_all(graph: ChannelGraph) -> None:
    """Whatever the scores of a group; groups as wide as each other stay so."""
    scores = {"conv1": torch.arange(6.0), "conv2": 100 + torch.arange(5.0)}
    budget = Budget((Bound("flops", graph.cost({"conv1": 4, "conv2": 4}).flops),))
    plan = select(scores, graph, budget, scope="uniform")
    assert plan.keep == {"conv1": (2, 3, 4, 5), "conv2": (1, 2, 3, 4)}
    twins = trace(
        torch.nn.Sequential(*(torch.nn.Conv2d(i, o, 1) for i, o in ((3, 8), (8, 8), (8, 2)))),
        torch.zeros(1, 3, 4, 4),
    )
    plan = select(distinct_scores(twins), twins, Budget.parse("params=80%"), scope="uniform")
    assert plan.widths == {"0": 6, "1": 6}


def test_infinite_scores_are_ordered(graph: ChannelGraph) -> None:
    scores = {"conv1": torch.tensor([math.inf, -math.inf, 0, 1, math.inf, -math.inf])}
    budget = Budget((Bound("flops", graph.cost({"conv1": 3}).flops),))
    assert removed(graph, select(scores, graph, budget)) == {"conv1": {1, 5, 2}}


def test_infinities_that_meet_in_a_chunk_keep_it() -> None:
    graph = BY_NAME["group normalisation"].graph
    scores = {"first": torch.tensor([1.0] * 3 + [-math.inf, math.inf, 0] + [2.0] * 6)}
    budget = Budget((Bound("flops", graph.cost({"first": 3}).flops),))
    assert select(scores, graph, budget).keep == {"first": (3, 4, 5)}
    chain = BY_NAME["chain"].graph
    scores = {"conv1": torch.tensor([-math.inf, math.inf] * 3), "conv2": torch.arange(5.0)}
    order = removal_order(scores, chain, divisor=4, min_channels=1)
    assert order == [("conv1", 0), ("conv1", 2), ("conv2", 0)]
    order = removal_order(scores, chain, divisor=2, min_channels=1)
    assert order[-2:] == [("conv1", 4), ("conv1", 1)]


def test_equal_scores_go_chunk_after_chunk_whatever_rounding_does() -> None:
    """0.1 + 0.1 + 0.1 is not 3 · 0.1."""
    graph = BY_NAME["attention"].graph
    for value in (0.1, 0.7, -0.1, -0.7, 1.1):
        scores = {"block.value": torch.full((8,), value, dtype=torch.float64)}
        for divisor in (1, 2, 3):
            order = removal_order(scores, graph, divisor=divisor, min_channels=1)
            assert [unit for _, unit in order] == list(range(8 - divisor))


def test_groups_without_scores_stay_whole(graph: ChannelGraph) -> None:
    budget = Budget((Bound("flops", graph.cost({"conv2": 3}).flops),))
    plan = select({"conv2": torch.arange(5.0)}, graph, budget)
    assert plan == KeepPlan({"conv2": (2, 3, 4)})


def test_the_dtype_and_gradient_of_scores_do_not_matter(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    budget = Budget.parse("flops=60%")
    expected = select(scores, graph, budget)
    halves = {name: value.half().requires_grad_() for name, value in scores.items()}
    assert select(halves, graph, budget) == expected


def test_an_unreachable_budget_names_the_nearest_cost(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    floor = graph.cost({"conv1": 3, "conv2": 3})
    budget = Budget((Bound("flops", floor.flops - 1), Bound("params", floor.params)))
    message = (
        rf"^the budget cannot be reached: flops of at most {floor.flops - 1:,} "
        rf"\(nearest reachable: {floor.flops:,}\)$"
    )
    with pytest.raises(UnreachableBudgetError, match=message):
        select(scores, graph, budget)
    both = unreachable(Budget.parse("flops=1", "params=1"), floor)
    assert f"params of at most 1 (nearest reachable: {floor.params:,})" in str(both)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"conv1": torch.full((6,), math.nan)}, "'conv1' has a score that is not a number"),
        ({"conv1": torch.zeros(5)}, r"'conv1' needs 6 scores, got shape \(5,\)"),
        ({"conv1": torch.zeros(6, 1)}, r"'conv1' needs 6 scores, got shape \(6, 1\)"),
        ({"head.fc": torch.zeros(4)}, "'head.fc' has scores but is pinned: the network's output"),
        ({"conv3": torch.zeros(4)}, "no channel group 'conv3': did you mean"),
    ],
)
def test_scores_that_are_refused(
    graph: ChannelGraph, scores: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        select(scores, graph, Budget.parse("flops=90%"))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_channels": 0}, "min_channels must be at least 1, got 0"),
        ({"divisor": 0}, "divisor must be at least 1, got 0"),
        ({"scope": "local"}, "scope must be one of global, uniform, got local"),
    ],
)
def test_rules_that_are_refused(
    graph: ChannelGraph, scores: dict[str, Tensor], rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        select(scores, graph, Budget.parse("flops=90%"), **rules)
    with pytest.raises(PlanError, match=message):
        removal_order(scores, graph, **rules)
    if "scope" not in rules:
        with pytest.raises(PlanError, match=message):
            least_widths(graph, scores, **rules)


@pytest.mark.parametrize("floor", [3, 5, 100])
def test_narrower_groups_than_the_floor_keep_all_of_their_channels(floor: int) -> None:
    graph = BY_NAME["inception"].graph
    scores, widths = distinct_scores(graph), graph.widths
    least = least_widths(graph, scores, min_channels=floor)
    assert least == {name: min(floor, widths[name]) for name in scores}
    for scope in ("global", "uniform"):
        order = removal_order(scores, graph, min_channels=floor, scope=scope)
        assert {name for name, _ in order} == {name for name in scores if widths[name] > floor}


def test_an_unreachable_number_of_channels_names_the_nearest_one(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    message = r"^the budget cannot be reached: channels of at most 5 \(nearest reachable: 6\)$"
    with pytest.raises(UnreachableBudgetError, match=message):
        select(scores, graph, Budget.parse("channels=40%"))
    assert select(scores, graph, Budget.parse("channels=6")).widths == {"conv1": 3, "conv2": 3}
    assert select({}, graph, Budget.parse("channels=50%")) == KeepPlan({})


def test_an_unreachable_budget_names_what_the_divisor_allows(
    graph: ChannelGraph, scores: dict[str, Tensor]
) -> None:
    floor = graph.cost({"conv1": 4, "conv2": 4}).flops
    for scope in ("global", "uniform"):
        with pytest.raises(UnreachableBudgetError, match=f"nearest reachable: {floor:,}"):
            select(scores, graph, Budget((Bound("flops", floor - 1),)), divisor=4, scope=scope)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"first": ()}, "the plan empties group 'first': keep at least 1 channel"),
        ({"first": (0, 1, 12)}, "keeps channel 12 of group 'first', which has channels 0 to 11"),
        ({"first": (-1, 0, 1)}, "keeps channel -1 of group 'first'"),
        ({"first": (0, 1.0, 2)}, r"group 'first' holds channel numbers, whole ones .*, got 1\.0"),
        ({"first": (True, False)}, "whole ones from 0 to 11, got True"),
        ({"first": (0, 1, 2, 2)}, "names a channel of group 'first' twice"),
        ({"first": (0, 1, 2, 3)}, "in units of 3: the plan splits a unit"),
        ({"last": (0, 1)}, "'last', which is pinned: the network's output"),
        ({"fist": (0,)}, "no channel group 'fist': did you mean first"),
    ],
)
def test_plans_that_do_not_fit(keep: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        KeepPlan(keep).units_kept(BY_NAME["group normalisation"].graph)


def test_units_kept() -> None:
    graph = BY_NAME["group normalisation"].graph
    kept = KeepPlan({"first": (3, 4, 5, 9, 10, 11)}).units_kept(graph)
    assert kept["first"].tolist() == [False, True, False, True]
    assert kept["last"].all()
    assert KeepPlan({"last": (0, 1, 2, 3)}).units_kept(graph)["last"].all()


def greedily(
    graph: ChannelGraph, scores: dict[str, Tensor], exponent: float, quantity: str, least: int
) -> list[tuple[str, int]]:
    """Unit after unit, whichever has least score per saving to this power at the widths then."""
    queues = {
        name: sorted(enumerate(unit_scores(graph, name, scores[name])), key=lambda pair: pair[1])
        for name in scores
    }
    removable = {n: graph.group(n).num_units - graph.group(n).floor(least) for n in scores}
    widths, order = {n: graph.group(n).width for n in scores}, []
    while any(removable.values()):

        def weighed(name: str) -> float:
            less = {**widths, name: widths[name] - graph.group(name).unit}
            saved = graph.cost(widths).of(quantity) - graph.cost(less).of(quantity)
            return queues[name][0][1] / (saved / graph.group(name).unit) ** exponent

        chosen = min((n for n in removable if removable[n]), key=weighed)
        order.append((chosen, queues[chosen].pop(0)[0]))
        widths[chosen] -= graph.group(chosen).unit
        removable[chosen] -= 1
    return order


@pytest.mark.parametrize("quantity", ["flops", "params", "weight_bytes"])
@given(data=st.data())
def test_scores_are_weighed_by_what_channels_cost_as_widths_shrink(
    quantity: str, data: st.DataObject
) -> None:
    graph = drawn_graph(data)
    scores = {name: 0.1 + values.abs() for name, values in distinct_scores(graph).items()}
    exponent = data.draw(st.sampled_from((0.25, 0.5, 1.0)))
    order = removal_order(
        scores, graph, min_channels=2, cost_exponent=exponent, quantities=[quantity]
    )
    assert order == greedily(graph, scores, exponent, quantity, 2)


def test_fewer_channels_go_where_dear_ones_go_first() -> None:
    graph = BY_NAME["inception"].graph
    scores = distinct_scores(graph)
    for quantity in ("flops", "params"):
        target = Budget((Bound(quantity, 0.6, is_share=True),))
        left = [
            sum(select(scores, graph, target, min_channels=1, cost_exponent=power).widths.values())
            for power in (0.0, 1.0)
        ]
        assert left[0] < left[1]


def test_a_budget_of_activations_alone_weighs_nothing(graph: ChannelGraph) -> None:
    scores = {group.name: torch.rand(group.width) for group in graph.prunable}
    target = Budget.parse("peak_activation_bytes=80%")
    plans = [select(scores, graph, target, min_channels=1, cost_exponent=e) for e in (0.0, 1.0)]
    assert plans[0] == plans[1]


def test_negative_scores_that_save_much_go_first(graph: ChannelGraph) -> None:
    saved = {
        n: graph.cost().flops - graph.cost({n: graph.group(n).width - 1}).flops
        for n in (g.name for g in graph.prunable)
    }
    assert len(set(saved.values())) > 1
    scores = {name: torch.full((graph.group(name).width,), -1.0) for name in saved}
    (first, _), *_ = removal_order(scores, graph, cost_exponent=1.0)
    assert saved[first] == max(saved.values())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"cost_exponent": 1.5}, "from 0 to 1, got 1.5"),
        ({"cost_exponent": float("nan")}, "from 0 to 1, got nan"),
        ({"cost_exponent": 0.5, "scope": "uniform"}, "leave one of them out"),
    ],
)
def test_weights_that_are_refused(
    graph: ChannelGraph, scores: dict[str, Tensor], rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        select(scores, graph, Budget.parse("flops=50%"), **rules)
