"""Members of every kind: within budget by fvcore's count, and maximal."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from unittest import mock

import pytest
import torch
from architectures import ARCHITECTURES, BY_NAME
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from copycat import Builder, WidthProfile, build
from copycat.families import (
    BaseNetwork,
    Bottleneck,
    Copycat,
    CopycatOfAll,
    Depth,
    FamilyKind,
    Member,
    MobileNetV2,
    PrunedShape,
    TemperedCopycat,
    UniformWidth,
    WideResNetWidth,
    members,
    mobilenet_series,
)
from copycat.families.mobilenet_series import MobileNetSeries, width_multiples
from copycat.families.width_series import WidthSeries, scale_of
from pruning import Bound, Budget, ChannelGraph, measure_cost, trace
from pruning.errors import BudgetError, ModelError, ProfileError, UnreachableBudgetError
from pruning.graph.channel_graph import ChannelGroup
from search.models import resolve, wide_resnet

IMAGE = torch.zeros(1, 3, 32, 32)
WRN = Builder("search.models:wide_resnet", {"depth": 16, "width": 2})
DIVISORS = (1, 2, 3, 8)
SCALABLE = [
    architecture.name
    for architecture in ARCHITECTURES
    if architecture.graph.prunable and isinstance(architecture.shapes, tuple)
]


def based_on(name: str) -> BaseNetwork:
    """A network of the collection; nothing here builds it by its builder."""
    graph = BY_NAME[name].graph
    told = graph.pruning(group.name for group in graph.prunable)
    return BaseNetwork(Builder("unused:unused"), told, BY_NAME[name].example())


@functools.cache
def wide() -> BaseNetwork:
    return BaseNetwork.of(WRN, IMAGE)


@functools.cache
def narrow_profile() -> WidthProfile:
    inner = [g for g in wide().graph.prunable if g.name.endswith(".conv1")]
    return WidthProfile({g.name: g.width // (2 + i % 3) for i, g in enumerate(inner)})


@st.composite
def profiles(draw: st.DrawFn, graph: ChannelGraph) -> WidthProfile:
    widths = {}
    for group in graph.prunable:
        if draw(st.booleans()) or not widths:
            least = max(group.min_units, 1)
            widths[group.name] = group.unit * draw(st.integers(least, 2 * group.num_units + 3))
    return WidthProfile(widths)


def permitted(group: ChannelGroup, divisor: int, most: int) -> list[int]:
    """Every width that a group may have: written down without a formula."""
    found = [
        width
        for width in range(1, most + 1)
        if width % group.unit == 0
        and width >= group.min_units * group.unit
        and (width == group.width or width % divisor == 0)
    ]
    too_narrow = group.width < min((w for w in found if w % divisor == 0), default=most + 1)
    return [w for w in found if w >= group.width] if too_narrow else found


def around(wanted: float, widths: list[int]) -> tuple[int, int]:
    """The neighbours of a real width among the permitted ones; itself twice if it is one."""
    below = max((w for w in widths if w <= wanted + 1e-7), default=widths[0])
    above = min((w for w in widths if w >= wanted - 1e-7), default=widths[0])
    return below, max(below, above)


def targets_of(kind: Copycat | TemperedCopycat | UniformWidth, graph: ChannelGraph):
    if isinstance(kind, UniformWidth):
        return {group.name: float(group.width) for group in graph.prunable}
    rho = kind.rho if isinstance(kind, TemperedCopycat) else 1.0
    return {
        name: graph.group(name).width * (width / graph.group(name).width) ** rho
        for name, width in kind.profile.widths.items()
    }


@st.composite
def kinds(draw: st.DrawFn, graph: ChannelGraph) -> Copycat | TemperedCopycat | UniformWidth:
    profile = draw(profiles(graph))
    rho = draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
    return draw(st.sampled_from([Copycat(profile), TemperedCopycat(profile, rho), UniformWidth()]))


@st.composite
def budgets(draw: st.DrawFn, base: BaseNetwork, kind: FamilyKind, divisor: int) -> Budget:
    """One or two bounds between the smallest member and one of twice the widths."""
    names = draw(st.sets(st.sampled_from(Budget.QUANTITIES), min_size=1, max_size=2))
    costs = [
        base.graph.cost(kind.member(base, alpha, divisor=divisor).profile.widths)
        for alpha in (0.0, 2.0)
    ]
    return Budget(
        tuple(
            Bound(name, draw(st.integers(*(int(cost.of(name)) for cost in costs))))
            for name in sorted(names)
        )
    )


def filling(base: BaseNetwork, kind: FamilyKind, budget: Budget, divisor: int) -> Member | None:
    """The member; None if the budget is above the largest."""
    try:
        (member,) = members(base, kind, [budget], divisor=divisor)
    except BudgetError:
        series = kind.series(base, divisor=divisor)
        cost = series.cost(series.shape(series.most))
        assert all(cost.of(bound.quantity) < bound.value for bound in budget.bounds)
        return None
    return member


@settings(max_examples=300)
@given(data=st.data())
def test_no_other_rounding_of_the_same_or_of_the_next_factor_fits(data: st.DataObject) -> None:
    base = based_on(data.draw(st.sampled_from(SCALABLE)))
    graph, divisor = base.graph, data.draw(st.sampled_from(DIVISORS))
    kind = data.draw(kinds(graph))
    budget = data.draw(budgets(base, kind, divisor))
    member = filling(base, kind, budget, divisor)
    if member is None:
        return
    assert member.cost == graph.cost(member.profile.widths)
    assert budget.allows(member.cost)

    targets = targets_of(kind, graph)
    most = 3 * max(member.profile.widths.values()) + 4 * divisor * max(
        group.unit for group in graph.prunable
    )
    widths = {n: permitted(graph.group(n), divisor, most) for n in targets}
    found = {name: member.profile.widths[name] for name in targets}
    steps = sorted(
        {(a + b) / 2 / targets[n] for n in targets for a, b in itertools.pairwise(widths[n])}
    )
    following = next(step for step in steps if step > member.parameter + 1e-7)
    for name, width in found.items():
        assert width in widths[name]
        (low, _), (_, high) = (
            around(alpha * targets[name], widths[name]) for alpha in (member.parameter, following)
        )
        assert low <= width <= high, name
        for wider in (w for w in widths[name] if width < w <= high):
            assert not budget.allows(graph.cost(member.profile.widths | {name: wider})), name
    nearest = {
        name: min(
            reversed(widths[name]),
            key=lambda w, name=name: abs(w - following * (1 + 1e-9) * targets[name]),
        )
        for name in targets
    }
    assert not budget.allows(graph.cost(member.profile.widths | nearest))


@settings(max_examples=60)
@given(data=st.data())
def test_members_are_within_budget_by_fvcores_count(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SCALABLE))
    base, divisor = based_on(name), data.draw(st.sampled_from(DIVISORS))
    kind = data.draw(kinds(base.graph))
    budget = data.draw(budgets(base, kind, divisor))
    member = filling(base, kind, budget, divisor)
    if member is None:
        return
    network = build(BY_NAME[name].make(), member.profile, base.example_input, graph=base.graph)
    counted = measure_cost(network, base.example_input)
    bounds = [b for b in budget.bounds if getattr(counted, b.quantity) is not None]
    assert not bounds or Budget(tuple(bounds)).allows(counted)
    for group in base.graph.prunable:
        width = member.profile.widths.get(group.name, group.width)
        assert width % group.unit == 0
        assert (
            width % divisor == 0
            or width == group.width
            or group.name not in targets_of(kind, base.graph)
        )


@pytest.mark.parametrize("name", SCALABLE)
@given(data=st.data())
@settings(max_examples=3)
def test_a_factor_of_one_gives_back_the_profile(name: str, data: st.DataObject) -> None:
    base = based_on(name)
    profile = data.draw(profiles(base.graph))
    for kind in (Copycat(profile), TemperedCopycat(profile, 1.0), PrunedShape(profile)):
        assert kind.member(base, 1.0).profile == profile
    whole = WidthProfile.of(base.graph)
    everything = CopycatOfAll(profile).member(base, 1.0).profile
    assert everything.widths == {**whole.widths, **profile.widths}
    assert UniformWidth().member(base, 1.0, divisor=8).profile == whole
    budget = Budget((Bound("params", base.graph.cost(profile.widths).params),))
    (member,) = members(base, Copycat(profile), [budget])
    assert (member.profile, member.parameter) == (profile, 1.0)


@given(data=st.data())
@settings(max_examples=30)
def test_tempering_leads_from_the_profile_to_the_uniform_network(data: st.DataObject) -> None:
    base = based_on(data.draw(st.sampled_from(SCALABLE)))
    profile = data.draw(profiles(base.graph))
    budget = data.draw(budgets(base, Copycat(profile), 1))
    ends: list[tuple[FamilyKind, FamilyKind]] = [
        (TemperedCopycat(profile, 1.0), Copycat(profile)),
        (TemperedCopycat(profile, 0.0), UniformWidth(tuple(profile.widths))),
    ]
    for tempered, plain in ends:
        try:
            (expected,) = members(base, plain, [budget])
        except BudgetError:
            with pytest.raises(BudgetError):
                members(base, tempered, [budget])
            continue
        (member,) = members(base, tempered, [budget])
        assert member.profile == expected.profile
        assert member.parameter == pytest.approx(expected.parameter)


def test_tempering_raises_shares_to_a_power() -> None:
    base = based_on("chain")  # 6 and 5 channels
    shape = TemperedCopycat(WidthProfile({"conv1": 600, "conv2": 125}), 0.5).member(base, 1.0)
    assert shape.profile.widths == {"conv1": 60, "conv2": 25}
    for rho in (-0.1, 1.1, math.nan):
        with pytest.raises(ProfileError, match="ρ must be from 0 to 1, got"):
            TemperedCopycat(shape.profile, rho)


def test_a_shape_can_be_tempered_towards_another() -> None:
    """ρ = 0 is the other shape; what that does not name is as wide as in the base network."""
    base = based_on("chain")
    narrow = WidthProfile({"conv1": 1, "conv2": 4})
    for other, widths in (
        (WidthProfile({"conv1": 4, "conv2": 1}), {"conv1": 4, "conv2": 1}),
        (WidthProfile({"conv1": 4}), {"conv1": 4, "conv2": 5}),
    ):
        for rho, expected in ((1.0, dict(narrow.widths)), (0.0, widths)):
            kind = TemperedCopycat(narrow, rho, other)
            assert kind.member(base, 1.0).profile.widths == expected
    between = TemperedCopycat(narrow, 0.5, WidthProfile({"conv1": 4, "conv2": 1}))
    assert between.member(base, 1.0).profile.widths == {"conv1": 2, "conv2": 2}


def test_the_rest_stays_as_in_the_base_or_is_scaled_too() -> None:
    base, profile = wide(), narrow_profile()
    (inner,) = members(base, Copycat(profile), [Budget.parse("params=50%")])
    assert inner.profile.widths.keys() == profile.widths.keys()
    (every,) = members(base, CopycatOfAll(profile), [Budget.parse("params=20%")])
    assert every.profile.widths.keys() == {group.name for group in base.graph.prunable}
    assert every.profile.widths["conv1"] < 16


def test_bottleneck_of_one_is_the_base_and_narrows_inner_channels_only() -> None:
    base = wide()
    assert Bottleneck().member(base, 1.0).profile == WidthProfile(
        {g.name: g.width for g in base.graph.prunable if g.name.endswith("conv1") and "." in g.name}
    )
    (whole,) = members(base, Bottleneck(), [Budget.parse("params=100%")])
    assert (whole.parameter, whole.cost) == (1.0, base.graph.cost())
    (half,) = members(base, Bottleneck(), [Budget.parse("params=50%")])
    shares = {w / base.graph.group(n).width for n, w in half.profile.widths.items()}
    assert max(shares) - min(shares) <= 2 / 32
    assert all("block" in name for name in half.profile.widths)
    vgg = BaseNetwork.of(Builder("search.models:digits_vgg"), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ProfileError, match="bottleneck needs a network with residual blocks"):
        Bottleneck().series(vgg)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_k_rescales_as_wrn_k(k: int) -> None:
    base = wide()
    shape = WideResNetWidth().member(base, k)
    expected = measure_cost(wide_resnet(16, k), IMAGE)
    assert base.graph.cost(shape.profile.widths) == expected
    (member,) = members(base, WideResNetWidth(), [Budget((Bound("params", expected.params),))])
    assert member.cost == expected
    assert member.profile == shape.profile


def test_k_keeps_the_stem_and_scales_each_stage() -> None:
    widths = WideResNetWidth().member(wide(), 1.25).profile.widths
    assert "conv1" not in widths
    assert set(widths.values()) == {20, 40, 80}
    narrow = BaseNetwork.of(Builder(WRN.target, {"depth": 10, "width": 1}), IMAGE)
    with pytest.raises(ProfileError, match="needs a wide ResNet of k ≥ 2"):
        WideResNetWidth().series(narrow)


def test_reduced_depth() -> None:
    base = BaseNetwork.of(Builder(WRN.target, {"depth": 28, "width": 1}), IMAGE)
    costs = {d: measure_cost(wide_resnet(d, 1), IMAGE) for d in (10, 16, 22, 28)}
    ladder = [
        Budget((Bound("params", costs[d].params + extra),)) for d in (10, 16) for extra in (0, 9)
    ]
    found = members(base, Depth(), ladder)
    assert [member.parameter for member in found] == [10, 10, 16, 16]
    assert [member.cost for member in found] == [costs[10], costs[10], costs[16], costs[16]]
    assert measure_cost(base.build(found[0].shape), IMAGE) == costs[10]
    with pytest.raises(UnreachableBudgetError, match=r"by the smallest depth, depth = 10$"):
        members(base, Depth(), [Budget((Bound("params", costs[10].params - 1),))])
    above = Budget((Bound("params", costs[28].params + 1),))
    with pytest.raises(BudgetError, match="is above the largest depth, depth = 28"):
        members(base, Depth(), [above])
    with pytest.raises(ModelError, match="is not built with an argument 'depth'"):
        Depth().series(BaseNetwork(Builder("search.models:vgg16"), base.graph, IMAGE))


@pytest.mark.parametrize(
    ("name", "depths"),
    [("resnet32", range(8, 33, 6)), ("digits-resnet", (8, 14)), ("wrn-28-1", (10, 16, 22, 28))],
)
def test_networks_of_the_zoo_that_have_a_depth(name: str, depths: Sequence[int]) -> None:
    base = BaseNetwork.of(resolve(name, num_classes=10, in_channels=3), IMAGE)
    series = Depth().series(base)
    assert [series.least, *series.steps(series.least, series.most)] == [*depths]
    for depth in (depths[0], depths[-1]):
        network = base.build(Depth().member(base, depth), seed=1)
        assert measure_cost(network, IMAGE) == series.cost(series.shape(depth))


def test_mobilenets_by_their_multiplier() -> None:
    """RNI, Table 5: of a similar number of parameters as a pruned network."""
    base = wide()
    found = members(base, MobileNetV2(10), Budget.parse_ladder("params=150k:450k:150k"))
    for member in found:
        network = base.build(member.shape)
        counted = measure_cost(network, IMAGE)
        assert member.cost == counted
        limit = member.limits.limit("params")
        assert limit is not None
        assert 0.8 * limit < counted.params <= limit
    multipliers = width_multiples(4.0)
    assert 1.0 in multipliers
    after = next(m for m in multipliers if m > found[0].parameter)
    wider = MobileNetV2(10).member(base, after)
    assert measure_cost(base.build(wider), IMAGE).params > 150_000


def test_every_change_of_torchvisions_widths_is_a_step() -> None:
    from torchvision.models._utils import _make_divisible  # noqa: PLC0415

    def widths(multiplier: float) -> tuple[int, ...]:
        narrowed = (_make_divisible(w * multiplier, 8) for w in (32, 16, 24, 64, 96, 160, 320))
        return (*narrowed, _make_divisible(1280 * max(1.0, multiplier), 8))

    steps = width_multiples(1.5)
    assert len({widths(step) for step in steps}) == len(steps)
    seen = {widths(number / 10_000) for number in range(1, 15_001)}
    assert seen <= {widths(step) for step in steps}


@pytest.mark.parametrize(("size", "chosen"), [(32, (0, 6, 200)), (96, (3,))])
def test_mobilenets_are_priced_as_each_traced_on_its_own(size: int, chosen: Sequence[int]) -> None:
    """Also narrow ones, whose stages of equal width have shortcuts that others lack."""
    example = torch.zeros(1, 3, size, size)
    series = MobileNetSeries(7, 4.0, example)
    steps = series.steps(0.0, 4.0)
    for multiplier in (steps[number] for number in chosen):
        shape = series.shape(multiplier)
        assert shape.builder is not None
        network = shape.builder()
        expected, found = trace(network, example).cost(), series.cost(shape)
        assert found == expected == measure_cost(network, example), multiplier
        assert found.weight_bytes == expected.weight_bytes, multiplier
        assert found.peak_activation_bytes == expected.peak_activation_bytes, multiplier


def test_mobilenets_of_one_topology_are_traced_once() -> None:
    base = wide()
    with mock.patch.object(mobilenet_series, "whole_trace", side_effect=trace) as counting:
        found = members(base, MobileNetV2(10), Budget.parse_ladder("params=200k:1M:200k"))
    assert len(found) == 5
    assert counting.call_count <= 4


def test_a_pruned_shape_is_a_member_of_every_budget_that_it_meets() -> None:
    base, profile = wide(), narrow_profile()
    cost = base.graph.cost(profile.widths)
    found = members(
        base,
        PrunedShape(profile),
        [Budget((Bound("flops", cost.flops),)), Budget.parse("flops=100%")],
    )
    assert [member.profile for member in found] == [profile, profile]
    with pytest.raises(UnreachableBudgetError, match=f"nearest reachable: {cost.flops:,}"):
        members(base, PrunedShape(profile), [Budget((Bound("flops", cost.flops - 1),))])


def test_a_range_makes_a_ladder() -> None:
    base = wide()
    ladder = Budget.parse_ladder("params=200k:600k:100k")
    found = members(base, UniformWidth(), ladder)
    assert [member.limits.limit("params") for member in found] == [2e5, 3e5, 4e5, 5e5, 6e5]
    alphas = [member.parameter for member in found]
    assert sorted(alphas) == alphas
    for member in found:
        network = base.build(member.shape, seed=3)
        assert measure_cost(network, IMAGE) == member.cost
        assert 0.99 * member.limits.limit("params") < member.cost.params


def test_members_start_from_their_seed_and_leave_torchs_generator_alone() -> None:
    base = wide()
    shapes = [
        members(base, kind, [Budget.parse("params=50%")])[0].shape
        for kind in (UniformWidth(), Depth())
    ]
    for shape in shapes:
        before = torch.get_rng_state()
        first, again, other = (base.build(shape, seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), before)
        pairs = [nn.utils.parameters_to_vector(n.parameters()) for n in (first, again, other)]
        assert torch.equal(pairs[0], pairs[1])
        assert not torch.equal(pairs[0], pairs[2])


def latency_of(network: nn.Module) -> float:
    """Stands in for a clock: a millisecond per 100,000 parameters."""
    return sum(p.numel() for p in network.parameters()) / 1e5


def test_latency_is_measured_and_bounded() -> None:
    base = wide()
    calls: list[int] = []

    def measure(network: nn.Module) -> float:
        calls.append(1)
        return latency_of(network)

    budget = Budget.parse("latency_ms=3", "flops=90%")
    found = members(base, UniformWidth(), [budget, budget.scaled(0.5)], measure=measure)
    for member, limit in zip(found, (3.0, 1.5), strict=True):
        assert member.cost.latency_ms == latency_of(base.build(member.shape))
        assert 0.98 * limit < member.cost.latency_ms <= limit
    assert found[0].num_measured + found[1].num_measured == len(calls)
    assert 0 < found[0].num_measured < 25
    (share,) = members(base, UniformWidth(), [Budget.parse("latency_ms=50%")], measure=latency_of)
    assert (
        share.limits.limit("latency_ms")
        == latency_of(base.build(share.shape.__class__(WidthProfile({})))) / 2
    )


def test_latency_without_a_measure_is_refused() -> None:
    with pytest.raises(BudgetError, match="latency_ms needs a way to measure: pass measure="):
        members(wide(), UniformWidth(), [Budget.parse("latency_ms=3")])
    with pytest.raises(UnreachableBudgetError, match=r"latency_ms of at most 0.001 \(nearest rea"):
        members(wide(), UniformWidth(), [Budget.parse("latency_ms=0.001")], measure=latency_of)


def test_budgets_outside_the_family_name_its_ends() -> None:
    base, profile = wide(), narrow_profile()
    least = base.graph.cost(dict.fromkeys(profile.widths, 1)).params
    message = (
        rf"params of at most {least - 1:,} \(nearest reachable: {least:,}\) "
        "by the smallest copycat, α = 0"
    )
    with pytest.raises(UnreachableBudgetError, match=message):
        members(base, Copycat(profile), [Budget((Bound("params", least - 1),))])
    most = base.graph.cost().params
    with pytest.raises(BudgetError, match=rf"above the largest copycat, α = .*params {most:,}"):
        members(base, Copycat(WidthProfile({})), [Budget((Bound("params", most + 1),))])


def test_profiles_that_do_not_fit_are_refused() -> None:
    base = wide()
    for profile, message in (
        (WidthProfile({"stage9": 3}), "the profile does not fit the network: .*no channel group"),
        (
            WidthProfile({"stage1.block1.conv2": 3}),
            "tied to those of group 'stage1.block0.conv2'; set the width there",
        ),
        (WidthProfile({"classifier": 9}), "is pinned at 10 channels, got 9"),
    ):
        of_profile = (
            Copycat,
            CopycatOfAll,
            functools.partial(TemperedCopycat, rho=0.5),
            PrunedShape,
        )
        for make in of_profile:
            kind = make(profile)
            with pytest.raises(ProfileError, match=message):
                kind.series(base)
    with pytest.raises(ProfileError, match="divisor must be at least 1, got 0"):
        Copycat(narrow_profile()).series(base, divisor=0)


def test_a_group_too_narrow_for_the_divisor_stays_whole_and_may_grow() -> None:
    graph = BY_NAME["chain"].graph  # 6 and 5 channels
    series = scale_of(WidthProfile.of(graph), graph, divisor=4)
    widths = {alpha: series.shape(alpha).profile.widths for alpha in (0.0, 0.5, 1.0, 1.5, 2.0)}
    assert widths[0.0] == widths[0.5] == {"conv1": 4, "conv2": 4}
    assert widths[1.0] == {"conv1": 6, "conv2": 5}
    assert widths[1.5] == {"conv1": 8, "conv2": 8}
    assert widths[2.0] == {"conv1": 12, "conv2": 12}
    eights = WidthSeries(graph, {"conv1": 6.0}, divisor=8)
    assert [eights.shape(a).profile.widths["conv1"] for a in (0, 1, 1.1, 1.2, 2)] == [
        6,
        6,
        6,
        8,
        16,
    ]


def test_wide_profiles_are_solved_without_listing_every_width() -> None:
    base = based_on("chain")
    profile = WidthProfile({"conv1": 2**30, "conv2": 2**30})
    (member,) = members(base, Copycat(profile), [Budget.parse("flops=100%")])
    assert isinstance(member, Member)
    assert base.graph.cost(member.profile.widths).flops <= base.graph.cost().flops


def test_a_budget_of_channels_is_for_networks_of_the_same_layers() -> None:
    base = wide().pruning(narrow_profile().widths)
    whole = sum(base.graph.group(name).width for name in narrow_profile().widths)
    budget = Budget.parse("channels=50%")
    for kind in (Copycat(narrow_profile()), Bottleneck(), UniformWidth()):
        (member,) = members(base, kind, [budget])
        assert member.cost.channels == whole // 2, kind
    for other in (Depth(), MobileNetV2(10)):
        with pytest.raises(BudgetError, match=f"a {other.name} network has others: give flops or"):
            members(base, other, [budget])
