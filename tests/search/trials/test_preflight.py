"""What is found out, and refused, before anything is trained."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from types import ModuleType

import pytest
import torch
from samples import small_config
from torch import nn

from copycat.builder import Builder
from copycat.width_profile import WidthProfile
from pruning import Cost, measure_cost
from pruning.errors import ConfigError, CriterionError, ModelError, UnreachableBudgetError
from pruning.structure_removal.structures import Structure
from pruning.tracing import whole_trace
from search import models
from search.data.data import Sample
from search.trials.preflight import Preflight, check

IMAGE = (1, 8, 8)
SAMPLE = Sample(torch.zeros(1, *IMAGE), tuple("abc"))


def small(norm: bool = True, classes: int = 3, width: int = 8) -> nn.Module:
    """Two convolutions, with batch norms unless told, and a classifier."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Pair(nn.Module):
    """A network that returns its logits twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.inner(x)
        return y, y


def without_norm() -> nn.Module:
    return small(norm=False)


def five_classes() -> nn.Module:
    return small(classes=5)


def for_colour_images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 3))


def a_map() -> nn.Module:
    return nn.Sequential(*list(small())[:6])


class Stream(nn.Module):
    """A stem and one convolution that is added to it: a single residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x)).mean((2, 3)))


def only_a_stream() -> nn.Module:
    return Stream()


def checked(tmp_path, make=small, **changes: object) -> Preflight:
    """The preflight of a network of this file."""
    settings = {"model": "own:net", "budget": ("flops=50%",)} | changes
    builder = Builder(f"{__name__}:{make.__name__}")
    return check(small_config(tmp_path, **settings), builder, SAMPLE)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks above are built by name, as those of users are."""
    module = ModuleType(__name__)
    module.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, __name__, module)


def test_costs_are_fvcores(tmp_path):
    found = checked(tmp_path)
    assert found.base == measure_cost(small(), torch.zeros(1, *IMAGE))
    assert found.floor == measure_cost(small(width=3), torch.zeros(1, *IMAGE))


class Unused(nn.Module):
    """A network that computes something which it does not use, as WaveNet's last layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.unused = small(), nn.Conv2d(1, 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        return self.inner(x)


def test_what_is_not_used_is_not_counted(tmp_path):
    """Its parameters are there, though."""
    found = checked(tmp_path, Unused)
    assert found.base.flops == measure_cost(small(), torch.zeros(1, *IMAGE)).flops
    assert found.base == measure_cost(Unused(), torch.zeros(1, *IMAGE))


def test_counts_that_differ_are_refused_at_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    cost = measure_cost(small(), torch.zeros(1, *IMAGE))
    other = dataclasses.replace(cost, flops=cost.flops - 1)
    monkeypatch.setattr("search.trials.preflight.measure_cost", lambda *_: other)
    expected = f"fvcore counts {cost.flops - 1:,} FLOPs and 707 .* the closed form {cost.flops:,} "
    with pytest.raises(ModelError, match=expected):
        checked(tmp_path)


def test_the_floor_follows_the_least_number_of_channels(tmp_path):
    found = checked(tmp_path, min_channels=5)
    assert found.floor == measure_cost(small(width=5), torch.zeros(1, *IMAGE))


def test_lines_tell_base_range_and_every_budget(tmp_path):
    """Worked out by hand: 9·64·(8 + 8·8) + 2·2·8·64 + 8·64 + 8·3 FLOPs and 707 parameters."""
    lines = checked(tmp_path, budget=("flops=50%", "params=500")).describe()
    assert lines == [
        "base network  44.1k FLOPs, 707 params  (fvcore, eval mode; 1 multiply-add = 1 FLOP)",
        "reachable     7.88k FLOPs, 132 params  and more",
        "budget        flops  ≤ 22k (50 % of the base network)",
        "budget        params ≤ 500 (70.7 % of the base network)",
        "prunable      16 channels in 2 groups",
    ]


def test_bytes_are_told_where_they_are_bounded(tmp_path):
    """Worked out by hand: 707 parameters, 4 · 8 statistics of 4 bytes, and 2 counts of 8.

    The most at once is what a convolution reads and writes, twice 8×8×8 floats.
    """
    budget = ("weight_bytes=75%", "peak_activation_bytes=4kB")
    found = checked(tmp_path, budget=budget)
    assert found.base.weight_bytes == 4 * (707 + 32) + 16 == 2972
    assert found.base.peak_activation_bytes == 2 * 4 * 512
    lines = found.describe()
    assert lines[0].startswith(
        "base network  44.1k FLOPs, 707 params, 2.97k weight_bytes, 4.1k peak_activation_bytes "
    )
    assert lines[1] == (
        "reachable     7.88k FLOPs, 132 params, 592 weight_bytes, 1.54k peak_activation_bytes  "
        "and more"
    )
    assert lines[2:4] == [
        "budget        weight_bytes          ≤ 2.23k (75 % of the base network)",
        "budget        peak_activation_bytes ≤ 4k (97.7 % of the base network)",
    ]


def test_channels_are_told_where_they_are_bounded(tmp_path):
    """Those of the layers that are pruned: two convolutions of 8."""
    found = checked(tmp_path, budget=("channels=45%",))
    assert (found.base.channels, found.floor.channels) == (16, 6)
    assert found.limits.limit("channels") == 8  # 8.8 go, rounded down
    lines = found.describe()
    assert lines[0].startswith("base network  44.1k FLOPs, 707 params, 16 channels  (fvcore")
    assert lines[1] == "reachable     7.88k FLOPs, 132 params, 6 channels  and more"
    assert lines[2] == "budget        channels ≤ 8 (50 % of the base network)"
    with pytest.raises(UnreachableBudgetError, match=r"channels of at most 5 .* reachable: 6\)"):
        checked(tmp_path, budget=("channels=5",))


@pytest.mark.parametrize(
    ("rules", "channels"),
    [({}, 8), ({"min_channels": 2}, 4), ({"scope": "global", "min_channels": 2}, 4)],
)
def test_a_uniform_share_is_each_layers_own_as_far_as_its_floor_allows(
    tmp_path, rules: dict[str, object], channels: int
):
    """A quarter of 8 channels would be 2: with at least 4 of them 8 stay, which is no refusal."""
    settings = {"min_channels": 4, "scope": "uniform", "budget": ("channels=25%",)}
    assert checked(tmp_path, **(settings | rules)).limits.limit("channels") == channels
    with pytest.raises(UnreachableBudgetError, match=r"channels of at most 4 .* reachable: 8\)"):
        checked(tmp_path, **(settings | {"scope": "global"}))


@pytest.mark.parametrize(
    ("budget", "ladder", "least"),
    [
        ("flops=50%", (1.0, 0.5), 0.25),
        ("flops=50%", (0.5, 1.0), 0.25),
        ("flops=50%", (1.0,), None),
        ("params=50%", (1.0, 0.5), None),
        ("flops=50%", (1.0, 1e-6), None),
    ],
)
def test_hypervolumes_reach_down_to_the_lowest_rung(tmp_path, budget, ladder, least):
    """Below it nobody looks for networks; without one, to the least that can be reached."""
    preflight = checked(tmp_path, budget=(budget,), ladder=ladder)
    expected = preflight.floor.flops if least is None else int(least * preflight.base.flops)
    assert preflight.reference.least_flops == expected
    assert preflight.reference.sparing(expected) == 1.0


def test_layers_narrower_than_the_floor_stay_whole(tmp_path):
    """Both have 8 channels: nothing can go, and a budget that asks for nothing holds."""
    found = checked(tmp_path, min_channels=100, budget=("flops=100%",))
    assert found.floor == found.base


@pytest.mark.parametrize(
    ("only", "num_groups", "num_channels"),
    [((), 19, 16 + 6 * (32 + 64 + 128)), (("*.conv1",), 18, 6 * (32 + 64 + 128))],
)
def test_the_candidates_of_crowley_et_al_lie_inside_the_blocks(
    tmp_path, only: tuple[str, ...], num_groups: int, num_channels: int
):
    """Fig. 2: WRN-40-2 has 18 blocks with channels between two convolutions; without a word, the
    stem is pruned, too."""
    builder = models.resolve("wrn-40-2", num_classes=3, in_channels=1)
    config = small_config(tmp_path, budget=("channels=50%",), only=only, criterion=("fisher",))
    found = check(config, builder, SAMPLE)
    assert (len(found.groups), found.base.channels) == (num_groups, num_channels)


@pytest.mark.parametrize(
    ("bound", "nearest"), [("weight_bytes=500", "592"), ("peak_activation_bytes=1k", "1,536")]
)
def test_unreachable_bytes_name_the_nearest_reachable_ones(tmp_path, bound: str, nearest: str):
    with pytest.raises(UnreachableBudgetError, match=rf"nearest reachable: {nearest}\)"):
        checked(tmp_path, budget=(bound,))


def test_an_unreachable_budget_names_the_nearest_reachable_value(tmp_path):
    floor = measure_cost(small(width=3), torch.zeros(1, *IMAGE))
    with pytest.raises(UnreachableBudgetError) as error:
        checked(tmp_path, budget=("flops=1k", "params=90"))
    assert f"flops of at most 1,000 (nearest reachable: {floor.flops:,})" in str(error.value)
    assert f"params of at most 90 (nearest reachable: {floor.params})" in str(error.value)


def test_the_nearest_reachable_value_is_reachable(tmp_path):
    floor = measure_cost(small(width=3), torch.zeros(1, *IMAGE))
    assert checked(tmp_path, budget=(f"flops={floor.flops}",)).limits.allows(floor)
    with pytest.raises(UnreachableBudgetError, match=f"nearest reachable: {floor.flops:,}"):
        checked(tmp_path, budget=(f"flops={floor.flops - 1}",))


def test_targets_are_held_against_budget_and_floor(tmp_path):
    floor = measure_cost(small(width=3), torch.zeros(1, *IMAGE))
    given = {"budget": ("flops=90%",), "targets": ("params=40%", f"flops={floor.flops}")}
    found = checked(tmp_path, **given)
    assert "targets       params=40%, flops=" in "\n".join(found.describe())
    for setting in ({"targets": ("flops=50%:95%:5%",)}, {"set": ("target_flops=95%",)}):
        with pytest.raises(ConfigError, match="the target flops=95% is above the budget, flops of"):
            checked(tmp_path, **(given | {"targets": ()} | setting))
    for setting in ({"targets": ("params=90",)}, {"set": (f"target_flops={floor.flops - 1}",)}):
        with pytest.raises(UnreachableBudgetError, match=r"^target .* \(nearest reachable: "):
            checked(tmp_path, **(given | {"targets": ()} | setting))


def test_only_the_bound_that_fails_is_named(tmp_path):
    with pytest.raises(UnreachableBudgetError) as error:
        checked(tmp_path, budget=("flops=50%", "params=90"))
    assert "flops" not in str(error.value)


def test_a_budget_on_parameters_alone_leaves_flops_free(tmp_path):
    found = checked(tmp_path, budget=("params=50%",))
    assert found.limits.limit("params") == found.base.params // 2
    assert found.flops_limit == found.base.flops


def test_shares_become_counts_of_the_base_network(tmp_path):
    found = checked(tmp_path, budget=("flops=50%", "params<=30%"))
    assert found.flops_limit == found.base.flops // 2
    assert found.limits.limit("params") == int(0.3 * found.base.params)


def test_a_budget_above_the_base_network_bounds_targets_by_it(tmp_path):
    found = checked(tmp_path, budget=("flops=1G",))
    assert found.flops_limit == found.base.flops
    assert found.limits.limit("flops") == 1e9


def test_a_network_without_batch_norm_is_refused(tmp_path):
    with pytest.raises(CriterionError, match=r"^own:net has no prunable channels with batch norm"):
        checked(tmp_path, without_norm)


@pytest.mark.parametrize(
    ("make", "found"),
    [(five_classes, r"\(1, 5\)"), (Pair, "tuple"), (a_map, r"\(1, 8, 8, 8\)")],
)
def test_an_output_that_is_not_one_row_of_logits_is_refused(tmp_path, make, found):
    expected = rf"^own:net must return logits of shape \(batch, 3\) in eval mode, got {found}"
    with pytest.raises(ModelError, match=expected):
        checked(tmp_path, make)


def test_a_network_for_other_images_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"^own:net: "):
        checked(tmp_path, for_colour_images)


def test_residual_streams_are_left_alone_unless_asked_for(tmp_path):
    builder = models.resolve("digits-resnet", num_classes=3, in_channels=1)

    def groups(prune_residual: bool) -> Preflight:
        config = small_config(tmp_path, budget=("flops=50%",), prune_residual=prune_residual)
        return check(config, builder, SAMPLE)

    shy, bold = groups(False), groups(True)
    assert set(shy.groups) < set(bold.groups)
    assert not any(shy.graph.group(name).residual for name in shy.groups)
    assert any(bold.graph.group(name).residual for name in bold.groups)
    assert bold.floor.flops < shy.floor.flops


def test_it_says_so_when_only_residual_streams_could_be_pruned(tmp_path):
    with pytest.raises(CriterionError, match=r"besides residual streams: --prune-residual"):
        checked(tmp_path, only_a_stream)


def test_a_preflight_holds_no_weights_and_can_be_sent_anywhere(preflight: Preflight):
    sent = pickle.loads(pickle.dumps(preflight))
    assert sent.groups == preflight.groups
    assert sent.graph.cost({sent.groups[0]: 3}) == preflight.graph.cost({sent.groups[0]: 3})
    assert isinstance(sent.base, Cost)
    assert len(pickle.dumps(preflight)) < 200_000


def test_the_graph_of_a_shape_without_structures_is_made_once(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """However many networks have it; the shape of another is another graph."""
    builder = models.resolve("samples:small_residual", num_classes=3, in_channels=1)
    config = small_config(tmp_path, granularity=("filter+block",), budget=("flops=50%",))
    found, traced = check(config, builder, SAMPLE), []
    monkeypatch.setattr(
        "search.trials.preflight.whole_trace",
        lambda *given: traced.append(given) or whole_trace(*given),
    )
    blocks = [(Structure("block", f"blocks.{number}"),) for number in (0, 1)]
    for widths in ({}, {"stem.0": 5}):
        assert found.graph_of(WidthProfile(widths)) is found.graph
        first, second = (found.graph_of(WidthProfile(widths, gone)) for gone in blocks)
        assert first.cost().flops == second.cost().flops < found.graph.cost().flops
        assert not any("blocks.0" in layer for group in first.groups for layer in group.producers)
        assert any("blocks.0" in layer for group in second.groups for layer in group.producers)
    assert len(traced) == 2
