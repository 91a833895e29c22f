"""Budgets as people write them, and costs as fvcore counts them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import chain, conv, head
from torch import Tensor, nn

from pruning import Bound, Budget, Cost, measure_cost
from pruning.cost import call_arguments, evaluating, format_count
from pruning.errors import BudgetError, TraceError


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("flops=30M", Bound("flops", 30_000_000)),
        ("params<=300k", Bound("params", 300_000)),
        ("params=300K", Bound("params", 300_000)),
        ("  FLOPs <= 1.5 g ", Bound("flops", 1_500_000_000)),
        ("flops=2b", Bound("flops", 2_000_000_000)),
        ("flops=1.5T", Bound("flops", 1_500_000_000_000)),
        ("flops=1234.9", Bound("flops", 1234)),
        ("params=1", Bound("params", 1)),
        ("flops=.5k", Bound("flops", 500)),
        ("flops=25%", Bound("flops", 0.25, is_share=True)),
        ("params = 12.5 %", Bound("params", 0.125, is_share=True)),
        ("flops=100%", Bound("flops", 1.0, is_share=True)),
        ("weight_bytes=2M", Bound("weight_bytes", 2_000_000)),
        ("weight_bytes<=1.5 MB", Bound("weight_bytes", 1_500_000)),
        ("weight_bytes=512B", Bound("weight_bytes", 512)),
        ("peak_activation_bytes=300kB", Bound("peak_activation_bytes", 300_000)),
        ("peak_activation_bytes=40%", Bound("peak_activation_bytes", 0.4, is_share=True)),
        ("latency_ms=3.5", Bound("latency_ms", 3.5)),
        ("latency_ms = 0.25 ms", Bound("latency_ms", 0.25)),
        ("latency_ms=50%", Bound("latency_ms", 0.5, is_share=True)),
        ("channels=50%", Bound("channels", 0.5, is_share=True)),
        ("channels=500", Bound("channels", 500)),
        ("channels=1.5k", Bound("channels", 1500)),
    ],
)
def test_budgets_that_are_understood(text: str, bound: Bound) -> None:
    assert Budget.parse(text) == Budget((bound,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "budget '' is not understood: write quantity=number, such as flops=25%"),
        ("flops", "is not understood"),
        ("flops=", "is not understood"),
        ("=5", "is not understood"),
        ("flops<5", "is not understood"),
        ("flops=-5", "is not understood"),
        ("flops=1e6", "is not understood"),
        ("flops=5MB", "ends in an unknown unit .mb.: use %, k, M, G or T"),
        ("flops=1,000", "is not understood"),
        ("latency=5", "an unknown quantity 'latency': choose from flops, params"),
        ("latency_ms=3k", "ends in an unknown unit 'k': use % or ms"),
        ("latency_ms=0", "must be above 0"),
        ("latency_ms=" + "9" * 400, "must be finite and above 0"),
        ("weight_bytes=3x", "ends in an unknown unit 'x': use %, kB, MB, GB or TB"),
        ("weight_bytes=0.5", "must be a finite count of at least 1"),
        ("params=1k:2k:1k", "is not understood"),
        ("flops=1.2.3", "'flops=1.2.3' has no readable number: '1.2.3'"),
        ("flops=.", "has no readable number"),
        ("flops=5x", "ends in an unknown unit 'x': use %, k, M, G or T"),
        ("flops=0", "must be above 0"),
        ("flops=0%", "must be above 0"),
        ("flops=100.1%", "must be at most 100%: it would bound nothing"),
        ("params=0.5", "must be a finite count of at least 1"),
        ("params=" + "9" * 400, "must be a finite count of at least 1"),
    ],
)
def test_budgets_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)


def test_an_empty_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="at least one bound, such as flops=25% or params=300k"):
        Budget.parse()


def test_a_quantity_is_bounded_once() -> None:
    with pytest.raises(BudgetError, match="bounds each quantity once, got flops, params, flops"):
        Budget.parse("flops=5M", "params=5k", "flops=25%")


def test_shares_become_counts_of_the_base() -> None:
    budget = Budget.parse("flops=25%", "params=300").absolute(Cost(1001, 5000))
    assert budget == Budget((Bound("flops", 250), Bound("params", 300)))
    assert budget.limit("flops") == 250
    assert Budget.parse("flops=1").limit("params") is None


@given(st.integers(1, 10**12), st.integers(1, 100))
def test_an_absolute_share_is_never_above_the_share(base: int, percent: int) -> None:
    limit = Budget.parse(f"flops={percent}%").absolute(Cost(base, 1)).limit("flops")
    assert limit is not None
    assert 100 * limit <= percent * base
    assert limit >= percent * base / 100 - 1.001
    if percent == 100:
        assert limit == base


def test_allows_and_excess_agree() -> None:
    budget = Budget.parse("flops=100", "params=10")
    assert budget.allows(Cost(100, 10))
    assert not budget.allows(Cost(101, 10))
    assert not budget.allows(Cost(100, 11))
    assert budget.excess(Cost(101, 4)) == {"flops": 1, "params": -6}


@given(st.integers(0, 200), st.integers(0, 20))
def test_a_cost_is_allowed_where_nothing_exceeds(flops: int, params: int) -> None:
    budget, cost = Budget.parse("flops=100", "params=10"), Cost(flops, params)
    assert budget.allows(cost) == all(excess <= 0 for excess in budget.excess(cost).values())


def test_a_share_means_nothing_without_a_base() -> None:
    with pytest.raises(AssertionError, match=r"call absolute\(\) first"):
        Budget.parse("flops=25%").allows(Cost(1, 1))


def test_scaled() -> None:
    budget = Budget.parse("flops=25%", "params=301").scaled(0.5)
    assert budget == Budget((Bound("flops", 0.125, is_share=True), Bound("params", 150)))


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_as_many_channels_stay_as_remain_when_those_that_go_are_rounded_down(
    base: int, percent: int
) -> None:
    limit = Budget.parse(f"channels={percent}%").absolute(Cost(1, 1, channels=base))
    assert limit == Budget((Bound("channels", base - base * (100 - percent) // 100),))


def test_a_part_of_a_number_of_channels_is_rounded_likewise() -> None:
    assert Budget.parse("channels=27").scaled(0.5) == Budget.parse("channels=14")


def test_latency_is_no_count() -> None:
    budget = Budget.parse("latency_ms=50%", "params=50%").absolute(Cost(1, 5, latency_ms=3.0))
    assert budget == Budget((Bound("latency_ms", 1.5), Bound("params", 2)))
    assert budget.scaled(0.5) == Budget((Bound("latency_ms", 0.75), Bound("params", 1)))
    assert budget.without_measured() == Budget((Bound("params", 2),))
    assert Budget.parse("latency_ms=5").without_measured() is None
    assert not budget.allows(Cost(1, 2, latency_ms=1.6))
    assert budget.allows(Cost(1, 2, latency_ms=1.5))


def test_what_is_not_known_cannot_be_held_against_a_budget() -> None:
    with pytest.raises(BudgetError, match=r"latency_ms of this network is not known.*measured"):
        Budget.parse("latency_ms=5").allows(Cost(1, 1))
    with pytest.raises(BudgetError, match=r"weight_bytes of this network is not known.*trace the"):
        Budget.parse("weight_bytes=5%").absolute(Cost(1, 1))
    with pytest.raises(BudgetError, match="peak_activation_bytes"):
        Budget.parse("peak_activation_bytes=5").excess(Cost(1, 1))


def test_bytes_are_bounded() -> None:
    cost = Cost(1, 1, weight_bytes=2_000_000, peak_activation_bytes=3000)
    assert Budget.parse("weight_bytes=2MB", "peak_activation_bytes=3kB").allows(cost)
    assert not Budget.parse("weight_bytes=2MB", "peak_activation_bytes=2.9kB").allows(cost)


def test_a_range_is_a_ladder_with_both_ends() -> None:
    rungs = Budget.parse_ladder("params=200k:2M:100k")
    assert [rung.limit("params") for rung in rungs] == list(range(200_000, 2_000_001, 100_000))
    shares = Budget.parse_ladder("flops=10%:30%:10%")
    assert shares == tuple(Budget.parse(f"flops={p}%") for p in (10, 20, 30))
    assert [r.limit("latency_ms") for r in Budget.parse_ladder("latency_ms=0.1:0.3:0.1")] == [
        0.1,
        0.2,
        0.3,
    ]
    assert [r.limit("params") for r in Budget.parse_ladder("params=1k:2k:600")] == [1000, 1600]
    assert Budget.parse_ladder("flops=5M") == (Budget.parse("flops=5M"),)


def test_other_bounds_hold_on_every_rung() -> None:
    rungs = Budget.parse_ladder("flops=50%", "params=1k:3k:1k", "weight_bytes=2M")
    assert rungs[1] == Budget.parse("flops=50%", "params=2k", "weight_bytes=2M")
    assert len(rungs) == 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("params=1k:2k",), "write quantity=from:to:step, such as params=200k:2M:100k"),
        (("params=1k:2k:0",), "must be above 0"),
        (("params=2k:1k:100",), "falls: write the smaller end first"),
        (("params=1k:100%:1k",), "mixes shares and numbers"),
        (("params=1:1M:1",), "has 1,000,000 rungs: at most 10,000"),
        (("params=1k:2k:1k", "flops=1k:2k:1k"), "a ladder has one range, got 'params"),
        (("width=1:2:1",), "an unknown quantity 'width'"),
        (("params=1k:2k:1k", "params=5k"), "bounds each quantity once"),
        ((), "at least one bound"),
    ],
)
def test_ladders_that_are_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse_ladder(*texts)


def test_budgets_as_text() -> None:
    budget = Budget.parse("flops=12.5%", "params=1234567")
    assert str(budget) == "flops=12.5% params=1.23M"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1k"),
        (1000, "1k"),
        (1234567, "1.23M"),
        (999_400, "999k"),
        (999_600, "1M"),
        (25_000_000, "25M"),
        (1_999_999_999, "2G"),
        (123_456_789_012, "123G"),
        (999_499_999_999, "999G"),
        (999_500_000_000, "1T"),
        (1e12, "1T"),
        (12_345e12, "12300T"),
        (-1500, "-1.5k"),
        (-999_999, "-1M"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(value: float, text: str) -> None:
    assert format_count(value) == text


@given(st.floats(1, 9e14))
def test_a_written_count_is_the_value_to_three_digits(value: float) -> None:
    text = format_count(value)
    read = float(text.rstrip("kMGT")) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1], 1)
    assert read == pytest.approx(value, rel=5.1e-3)


def test_the_cost_of_a_convolution_by_hand() -> None:
    """One fused multiply-add is one FLOP, and a bias adds none."""
    model = nn.Conv2d(3, 8, 5, stride=2, padding=2)
    cost = measure_cost(model, torch.zeros(1, 3, 10, 12))
    assert cost == Cost(flops=5 * 6 * 25 * 3 * 8, params=25 * 3 * 8 + 8)


def test_shared_parameters_count_once() -> None:
    model = chain(first=nn.Linear(6, 6), second=nn.Linear(6, 6))
    model.second.weight = model.first.weight
    assert measure_cost(model, torch.zeros(1, 6)) == Cost(flops=72, params=36 + 12)


def test_measuring_leaves_the_network_as_it_was() -> None:
    model = chain(first=conv(3, 6), bn=nn.BatchNorm2d(6), head=head(6)).train()
    model.bn.eval()
    before = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    measure_cost(model, torch.randn(1, 3, 8, 8))
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_modes_are_restored_after_an_error() -> None:
    model = chain(first=conv(3, 6), bn=nn.BatchNorm2d(6))
    model.bn.eval()
    with pytest.raises(RuntimeError, match="expected input"), evaluating(model):
        model(torch.zeros(1, 4, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False]


def test_what_fvcore_cannot_count_is_noted() -> None:
    model = nn.LSTM(4, 5, batch_first=True)
    cost = measure_cost(model, torch.zeros(1, 3, 4))
    assert cost.notes == (
        "fvcore does not count aten::lstm (1 calls; the cost of a trace says how much)",
    )


def test_call_arguments() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    assert call_arguments(x) == ((x,), {})
    assert call_arguments((x, y)) == ((x, y), {})
    assert call_arguments({"x": x}) == ((), {"x": x})


def test_costs_are_equal_when_flops_and_parameters_are() -> None:
    assert Cost(1, 2, ("a note",), weight_bytes=3) == Cost(1, 2)
    assert Cost(1, 2) != Cost(2, 2)
    assert Cost(1, 2) != Cost(1, 1)


def test_bytes_of_weights_include_buffers() -> None:
    """Four numbers a channel in floats, and a counter in a 64-bit integer."""
    assert measure_cost(nn.BatchNorm2d(7), torch.zeros(1, 7, 2, 2)).weight_bytes == 4 * 7 * 4 + 8


def test_padding_by_name_is_counted_like_any_convolution() -> None:
    """fvcore has no rule of its own for the operator that padding="same" becomes."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 4, (1, 5), padding="same")
    )
    measured = measure_cost(model, torch.zeros(1, 3, 6, 7))
    assert measured.flops == 6 * 7 * (8 * 3 * 9 + 4 * 8 * 5)


class Options(nn.Module):
    """Takes its inputs by name, with things that are no tensors among them."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.code = nn.Conv2d(3, 4, 1), nn.Linear(5, 4)
        self.norm = nn.BatchNorm2d(4)

    def forward(
        self, code: Tensor, image: Tensor, *, twice: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        y = self.norm(self.image(image)) + self.code(code)[:, :, None, None]
        assert mask is None
        return self.image(image) + y if twice else y


def test_inputs_may_be_named_and_need_not_be_tensors() -> None:
    model = Options()
    model.norm.train()
    code, image = torch.zeros(1, 5), torch.zeros(1, 3, 2, 2)
    plain = measure_cost(model, (code, image))
    assert plain.flops == 4 * 3 * 4 + 5 * 4 + 2 * 16
    assert measure_cost(model, {"image": image, "code": code}) == plain
    assert measure_cost(model, (code, image)) == plain
    twice = measure_cost(model, {"image": image, "code": code, "twice": True, "mask": None})
    assert (twice.flops, twice.params) == (plain.flops + 4 * 3 * 4, plain.params)
    assert twice.weight_bytes == plain.weight_bytes
    assert model.norm.training


class Untraceable(nn.Conv2d):
    """As nn.MaxUnpool2d and compiled modules are for some versions of torch.jit.trace."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("cannot be recorded\nand a second line")
        return super().forward(input)


def test_a_network_that_fvcore_cannot_count_is_one_line() -> None:
    message = r"^fvcore cannot count Untraceable: cannot be recorded \([^\n]*$"
    with pytest.raises(TraceError, match=message):
        measure_cost(Untraceable(3, 4, 1), torch.zeros(1, 3, 4, 4))
