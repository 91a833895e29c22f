"""Oracles against networks that have really lost the channels."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import BY_NAME
from gating import channels_of
from networks import chain, conv, head
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruning import ChannelGraph, KeepPlan, remove_channels, trace
from pruning.criteria import (
    Oracle,
    TaylorSecondOrder,
    combinatorial_oracle,
    greedy_order,
)
from pruning.errors import CriterionError

CLASSIFIERS = (
    "chain",
    "identity shortcut",
    "projected shortcut",
    "dense block",
    "channel shuffle",
    "squeeze-excitation",
    "many narrow groups",
    "linear after flatten",
)


def example(name: str) -> tuple[nn.Module, ChannelGraph, list[tuple[Tensor, Tensor]]]:
    """A network of the collection, its graph and minibatches of 8, 8 and 3 samples."""
    architecture = BY_NAME[name]
    model, generator = architecture.network(0, torch.float64), torch.Generator().manual_seed(1)
    shape = architecture.example().shape[1:]
    classes = model(torch.zeros(1, *shape).double()).flatten(1).shape[1]
    batches = [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.randint(classes, (size,), generator=generator),
        )
        for size in (8, 8, 3)
    ]
    return model, architecture.graph, batches


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(1), targets)


def loss_over(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean loss over all samples of all minibatches at once."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        return error(model.eval()(inputs), targets)


def without(model: nn.Module, graph: ChannelGraph, removed: dict[str, set[int]]) -> nn.Module:
    """What surgery makes of `model` without these units per group."""
    keep = {}
    for name, units in removed.items():
        group = graph.group(name)
        keep[name] = channels_of(group, set(range(group.num_units)) - units)
    return remove_channels(model, graph, KeepPlan(keep))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_are_squared_changes_of_the_loss_by_surgery(name: str) -> None:
    model, graph, batches = example(name)
    scores = Oracle(error).score(model, graph, iter(batches))
    whole = loss_over(model, batches)
    assert tuple(scores) == tuple(group.name for group in graph.prunable)
    for group in graph.prunable:
        changes = [
            loss_over(without(model, graph, {group.name: {unit}}), batches) - whole
            for unit in range(group.num_units)
        ]
        expected = torch.stack(changes).square()[torch.from_numpy(group.unit_of_channel)]
        assert expected.max() > 1e-8
        torch.testing.assert_close(scores[group.name], expected, rtol=1e-6, atol=1e-14)


def test_the_combinatorial_oracle_is_the_best_subset_by_surgery() -> None:
    model, graph, batches = example("chain")
    losses = {
        subset: float(loss_over(without(model, graph, {"conv1": set(subset)}), batches))
        for subset in itertools.combinations(range(6), 3)
    }
    units, loss = combinatorial_oracle(model, graph, "conv1", iter(batches), 3, loss=error)
    assert units == min(losses, key=lambda subset: losses[subset])
    assert loss == pytest.approx(losses[units], rel=1e-9)


def test_the_greedy_order_takes_the_best_single_unit_at_each_step() -> None:
    model, graph, batches = example("identity shortcut")
    sizes = {"stem": 6, "a": 5}
    gone: dict[str, set[int]] = {name: set() for name in sizes}
    order = greedy_order(model, graph, sizes, iter(batches), 6, loss=error)
    for removal in order:
        losses = {
            (name, unit): float(
                loss_over(without(model, graph, gone | {name: gone[name] | {unit}}), batches)
            )
            for name, size in sizes.items()
            for unit in range(size)
            if unit not in gone[name] and len(gone[name]) < size - 1
        }
        assert (removal.group, removal.unit) == min(losses, key=lambda place: losses[place])
        assert removal.loss == pytest.approx(losses[removal.group, removal.unit], rel=1e-9)
        gone[removal.group].add(removal.unit)
    assert len(order) == 6


def test_greedy_never_beats_combinatorial_and_equals_it_for_one_unit() -> None:
    gaps = []
    for name, group, most in (("chain", "conv1", 5), ("dense block", "stem", 4)):
        model, graph, batches = example(name)
        greedy = greedy_order(model, graph, [group], batches, most, loss=error)
        for number, step in enumerate(greedy, start=1):
            _, best = combinatorial_oracle(model, graph, group, batches, number, loss=error)
            gaps.append(step.loss - best)
            assert gaps[-1] >= -1e-12
            assert number > 1 or gaps[-1] == pytest.approx(0)
    assert max(gaps) > 1e-6


def test_greedy_leaves_every_group_a_unit() -> None:
    model, graph, batches = example("chain")
    order = greedy_order(model, graph, ["conv1", "conv2"], batches, 9, loss=error)
    assert sorted(removal.group for removal in order) == ["conv1"] * 5 + ["conv2"] * 4
    assert len({(removal.group, removal.unit) for removal in order}) == 9
    with pytest.raises(CriterionError, match=r"between 1 and 9, .* conv1, conv2 .* got 10"):
        greedy_order(model, graph, ["conv1", "conv2"], batches, 10, loss=error)


@pytest.mark.parametrize("number", [0, 6])
def test_a_number_that_cannot_go_is_refused(number: int) -> None:
    model, graph, batches = example("chain")
    with pytest.raises(CriterionError, match=f"between 1 and 5, .* got {number}"):
        combinatorial_oracle(model, graph, "conv1", batches, number, loss=error)


def test_too_many_subsets_are_refused_before_the_data_is_touched() -> None:
    model = chain(wide=conv(3, 20), act=nn.ReLU(), head=head(20))

    def untouched() -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError
        yield

    with pytest.raises(CriterionError, match="77,520 ways, more than the 20,000"):
        combinatorial_oracle(model, trace(model, torch.zeros(1, 3, 8, 8)), "wide", untouched(), 7)


def test_no_data_is_one_clear_error() -> None:
    model, graph, _ = example("chain")
    with pytest.raises(CriterionError, match="needs labelled data: pass batches="):
        Oracle().score(model, graph)
    with pytest.raises(CriterionError, match="needs labelled data: pass batches="):
        greedy_order(model, graph, ["conv1"], [], 1)


def test_a_loss_per_sample_or_without_end_is_refused() -> None:
    model, graph, batches = example("chain")
    with pytest.raises(CriterionError, match=r"a scalar, got shape \(8,\)"):
        Oracle(lambda output, _: output.flatten(1).mean(1)).score(model, graph, batches)
    with pytest.raises(CriterionError, match="infinite or not a number"):
        Oracle(lambda output, _: output.mean() * torch.inf).score(model, graph, batches)


def test_progress_counts_units_times_minibatches() -> None:
    model, graph, batches = example("chain")
    seen: list[tuple[int, int]] = []
    oracle = Oracle(error, on_unit=lambda done, total: seen.append((done, total)))
    oracle.score(model, graph, batches)
    assert seen == [(number, 33) for number in range(1, 34)]
    seen.clear()
    oracle.score(model, graph, iter(batches))
    assert seen == [(number, -(-number // 11) * 11) for number in range(1, 34)]


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that operators made inside it and that are still alive; the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        alive = {ref: size for ref, size in self._storages.items() if not ref.expired()}
        self._storages = alive
        self.peak = max(self.peak, sum(alive.values()))
        return result


def peak_bytes(criterion: Oracle | TaylorSecondOrder, hidden: int) -> int:
    """Of scoring `hidden` units whose outputs become images of 128×128 and 1 MB of activations."""
    model = nn.Sequential(
        *(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 16), nn.Unflatten(1, (1, 4, 4))),
        *(nn.Upsample(scale_factor=32), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    batch = (torch.randn(1, 3), torch.zeros(1, dtype=torch.long))
    graph = trace(model, torch.zeros(1, 3))
    with LiveBytes() as live:
        scores = criterion.score(model, graph, [batch, batch])
    assert len(scores["0"]) == hidden
    return live.peak


@pytest.mark.parametrize(("criterion", "most"), [(Oracle(), 2.3e6), (TaylorSecondOrder(), 2e7)])
def test_memory_does_not_grow_with_the_number_of_units(
    criterion: Oracle | TaylorSecondOrder, most: float
) -> None:
    few, many = peak_bytes(criterion, 8), peak_bytes(criterion, 64)
    assert 2e6 < few < most
    assert many < few + 1e5


def test_a_gate_on_a_convolution_at_zero_is_its_filter_at_zero() -> None:
    """Equation 3 of one convolution of a stream, by zeroing the weights."""
    model, graph = BY_NAME["identity shortcut"].network(0, torch.float64), None
    architecture = BY_NAME["identity shortcut"]
    model, graph = architecture.network(0, torch.float64), architecture.graph
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    oracle = Oracle().placed(per="convolution")
    gates = oracle.gates(model, graph)
    scores = gates.by_layer(oracle.judge(gates, [(images, labels)]))
    model.eval()
    whole = F.cross_entropy(model(images), labels)
    for name in ("stem", "b"):
        without = copy.deepcopy(model)
        for parameter in without.get_submodule(name).parameters():
            parameter.data[1] = 0
        expected = (whole - F.cross_entropy(without(images), labels)) ** 2
        torch.testing.assert_close(scores[name][1], expected.detach())
