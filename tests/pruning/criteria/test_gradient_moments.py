"""An observer beside a training loop sees what a pass of its own would, and changes nothing."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from architectures import BY_NAME
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import Fisher, GradientObserver, Taylor, TaylorWeights
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates

CHAIN = BY_NAME["chain"]
CRITERIA = (Taylor(), TaylorWeights(), Fisher(1e-6))


def data(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 4, (size,), generator=generator),
        )
        for size in sizes
    ]


def watched(
    model: nn.Module, observer: GradientObserver | None, batches: list[tuple[Tensor, Tensor]]
) -> nn.Module:
    """`model` after an SGD step per minibatch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for images, labels in batches:
        optimizer.zero_grad()
        if observer is None:
            F.cross_entropy(model(images), labels).backward()
        else:
            with observer.watching(len(images)):
                F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_watching_changes_nothing_of_training() -> None:
    model = CHAIN.network(0, torch.float64).train()
    twin = copy.deepcopy(model)
    watched(model, GradientObserver(ChannelGates(model, CHAIN.graph)), data(4, 4, 2))
    watched(twin, None, data(4, 4, 2))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name])


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
def test_watching_a_pass_gives_the_scores_of_a_pass(criterion: Taylor) -> None:
    model = CHAIN.network(0, torch.float64)
    gates = ChannelGates(model, CHAIN.graph)
    observer = GradientObserver(gates)
    for images, labels in data(4, 3):
        model.zero_grad()
        with observer.watching(len(images)):
            F.cross_entropy(model(images), labels).backward()
    scores = gates.by_channel(criterion.of(observer.moments))
    expected = criterion.score(model, CHAIN.graph, data(4, 3))
    for name, values in expected.items():
        torch.testing.assert_close(scores[name], values)


def test_a_reset_forgets_and_an_interrupted_minibatch_does_not_count() -> None:
    model = CHAIN.network(0, torch.float64)
    observer = GradientObserver(ChannelGates(model, CHAIN.graph))
    with pytest.raises(CriterionError, match="no minibatch has been watched"):
        _ = observer.moments
    watched(model, observer, data(4, 3))
    assert (observer.moments.num_batches, observer.moments.num_samples) == (2, 7)
    with pytest.raises(KeyboardInterrupt), observer.watching(2):
        raise KeyboardInterrupt
    assert observer.moments.num_batches == 2
    observer.reset()
    with pytest.raises(CriterionError, match="no minibatch has been watched"):
        _ = observer.moments


def test_flops_are_saved_at_the_widths_that_are_left() -> None:
    model, graph = CHAIN.network(0, torch.float64), CHAIN.graph
    gates = ChannelGates(model, graph)
    observer = GradientObserver(gates)
    watched(model, observer, data(4))
    plain = gates.by_channel(Fisher().of(observer.moments))
    whole = gates.by_channel(Fisher(1.0).of(observer.moments))
    observer.reset(widths={"conv1": 1, "conv2": 3})
    watched(model, observer, data(4))
    plain_left = gates.by_channel(Fisher().of(observer.moments))
    left = gates.by_channel(Fisher(1.0).of(observer.moments))

    def saved(**widths: int) -> int:
        fewer = {**widths, "conv2": widths["conv2"] - 1}
        return graph.cost(widths).flops - graph.cost(fewer).flops

    assert saved(conv1=1, conv2=3) != saved(conv1=6, conv2=5)
    torch.testing.assert_close(
        (plain["conv2"] - whole["conv2"]), torch.full((5,), float(saved(conv1=6, conv2=5))).double()
    )
    torch.testing.assert_close(
        (plain_left["conv2"] - left["conv2"]),
        torch.full((5,), float(saved(conv1=1, conv2=3))).double(),
    )
    assert torch.equal(left["conv1"], plain_left["conv1"])  # its last channel cannot go


def test_an_observer_goes_on_from_its_state() -> None:
    model = CHAIN.network(0, torch.float64)
    gates = ChannelGates(model, CHAIN.graph)
    first, second = GradientObserver(gates, {"conv1": 4}), GradientObserver(gates)
    second.load_state_dict(first.state_dict())
    with pytest.raises(CriterionError, match="no minibatch"):
        _ = second.moments
    watched(model, first, data(4, 3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for criterion in CRITERIA:
        assert torch.equal(criterion.of(first.moments), criterion.of(second.moments))
    assert second.moments.widths == {"conv1": 4}


def test_frozen_producers_are_refused() -> None:
    model = CHAIN.network(0, torch.float64)
    observer = GradientObserver(ChannelGates(model, CHAIN.graph))
    model.conv2.weight.requires_grad_(False)
    with pytest.raises(CriterionError, match=r"conv2.weight is frozen"), observer.watching(2):
        pass
