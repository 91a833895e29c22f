"""Which channels stay: the budget is met, no more than needed goes, no floor is broken."""

from __future__ import annotations

import math

import pytest
import torch
from architectures import BY_NAME
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruning import Bound, Budget, ChannelGraph, KeepPlan, select
from pruning.errors import PlanError, UnreachableBudgetError
from pruning.selection import MIN_CHANNELS, unreachable

NAMES = ("dense block", "inception", "group normalisation", "channel shuffle", "attention")


def drawn_scores(data: st.DataObject, graph: ChannelGraph) -> dict[str, Tensor]:
    """Scores with many ties."""
    return {
        group.name: torch.tensor(
            data.draw(
                st.lists(
                    st.integers(0, 3) | st.floats(-5, 5),
                    min_size=group.width,
                    max_size=group.width,
                )
            ),
            dtype=torch.float64,
        )
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


@given(data=st.data())
def test_the_budget_is_met_and_not_undercut(data: st.DataObject) -> None:
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    scores = drawn_scores(data, graph)
    floor = data.draw(st.integers(1, 4))
    quantity = data.draw(st.sampled_from(Budget.QUANTITIES))
    least = getattr(graph.cost(graph.floor_widths(scores, floor)), quantity)
    most = getattr(graph.cost(), quantity)
    budget = Budget((Bound(quantity, data.draw(st.integers(least, most))),))

    plan = select(scores, graph, budget, min_channels=floor)

    assert list(plan.keep) == [group.name for group in graph.prunable]
    assert budget.allows(graph.cost(plan.widths))
    for name, width in plan.widths.items():
        group = graph.group(name)
        assert width >= min(floor, group.width)
        assert width % group.unit == 0
        assert plan.keep[name] == tuple(sorted(set(plan.keep[name])))
    _assert_lowest_went(graph, scores, plan)
    _assert_last_removal_was_needed(graph, scores, plan, budget)


def _assert_lowest_went(graph: ChannelGraph, scores: dict[str, Tensor], plan: KeepPlan) -> None:
    """Within a group no kept unit scores below a removed one; of equal ones the first go."""
    for name, kept in kept_units(graph, plan).items():
        values = unit_scores(graph, name, scores[name])
        ranked = sorted(range(len(values)), key=lambda unit: (values[unit], unit))
        assert set(ranked[len(values) - len(kept) :]) == kept


def _assert_last_removal_was_needed(
    graph: ChannelGraph, scores: dict[str, Tensor], plan: KeepPlan, budget: Budget
) -> None:
    """Put back the best of all removed units: over budget."""
    removed = [
        (score, graph.index(name), unit)
        for name, kept in kept_units(graph, plan).items()
        for unit, score in enumerate(unit_scores(graph, name, scores[name]))
        if unit not in kept
    ]
    if removed:
        group = graph.groups[max(removed)[1]]
        widths = {**plan.widths, group.name: plan.widths[group.name] + group.unit}
        assert not budget.allows(graph.cost(widths))


@given(data=st.data())
def test_a_smaller_budget_keeps_a_subset(data: st.DataObject) -> None:
    graph = BY_NAME[data.draw(st.sampled_from(NAMES))].graph
    scores = drawn_scores(data, graph)
    least, most = graph.cost(graph.floor_widths(scores, MIN_CHANNELS)).flops, graph.cost().flops
    low, high = sorted(data.draw(st.tuples(*[st.integers(least, most)] * 2)))
    less = select(scores, graph, Budget((Bound("flops", low),)))
    more = select(scores, graph, Budget((Bound("flops", high),)))
    assert all(set(less.keep[name]) <= set(more.keep[name]) for name in scores)


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
    for floor in range(1, 8):
        least = graph.floor_widths(scores, floor)
        assert least == {"conv1": min(floor, 6), "conv2": min(floor, 5)}
        budget = Budget((Bound("flops", graph.cost(least).flops),))
        assert select(scores, graph, budget, min_channels=floor).widths == least


def test_infinite_scores_are_ordered(graph: ChannelGraph) -> None:
    scores = {"conv1": torch.tensor([math.inf, -math.inf, 0, 1, math.inf, -math.inf])}
    budget = Budget((Bound("flops", graph.cost({"conv1": 3}).flops),))
    assert removed(graph, select(scores, graph, budget)) == {"conv1": {1, 5, 2}}


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


def test_a_floor_below_one_is_refused(graph: ChannelGraph, scores: dict[str, Tensor]) -> None:
    with pytest.raises(PlanError, match="min_channels must be at least 1, got 0"):
        select(scores, graph, Budget.parse("flops=90%"), min_channels=0)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"first": ()}, "the plan empties group 'first': keep at least 1 channel"),
        ({"first": (0, 1, 12)}, "keeps channel 12 of group 'first', which has channels 0 to 11"),
        ({"first": (-1, 0, 1)}, "keeps channel -1 of group 'first'"),
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
