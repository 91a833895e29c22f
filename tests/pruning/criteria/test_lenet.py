"""Figure 3 of Molchanov et al. on the digits: how far criteria prune LeNet without fine-tuning.

How near they are to the oracle tells a good criterion from a worse one: after each removal scores
are computed anew, so that noise in them hardly changes how far a network can be pruned.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import KeepPlan, remove_channels, trace
from pruning.criteria import (
    Criterion,
    FirstOrderCriterion,
    GradientMoments,
    Oracle,
    Random,
    Taylor,
    TaylorSecondOrder,
    WeightMagnitude,
)
from search.config.data_config import DataConfig
from search.data.datasets import load

SEEDS = range(3)
BATCH = 200
MAX_LOSS = 1.0
AT_A_TIME = 8
"""Neurons; the paper takes them one by one, which takes as many times as long."""

CRITERIA: dict[str, Callable[[int], Criterion]] = {
    "first order": lambda seed: Taylor(),
    "second order": lambda seed: TaylorSecondOrder(probes=4, seed=seed),
    "magnitude": lambda seed: WeightMagnitude(2),
    "random": Random,
}


class BlurredTaylor(FirstOrderCriterion):
    """A worse Taylor: its scores are off by factors of about seven, up or down."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, moments: GradientMoments) -> Tensor:
        scores = Taylor().of(moments)
        return scores * torch.exp(2 * torch.randn(scores.shape, generator=self._generator))


def digits(num_images: int = 1000) -> tuple[Tensor, Tensor]:
    """Training images N×1×8×8, standardised, and their labels."""
    data = load(DataConfig(limit_train=num_images), seed=0)
    images = data.train.images.float() / 255
    return (images - data.mean[0]) / data.std[0], data.train.labels


def lenet() -> nn.Sequential:
    """The paper's LeNet3 (§4.1.1), 16, 32, 120 and 84 neurons to prune, for images of 8×8."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(128, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def trained(seed: int, images: Tensor, labels: Tensor, epochs: int = 15) -> nn.Module:
    torch.manual_seed(seed)
    model = lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def training_loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(model(images), labels))


def num_pruned(
    model: nn.Module,
    criterion: Callable[[int], Criterion],
    images: Tensor,
    labels: Tensor,
    seed: int,
) -> int:
    """Neurons that go, the least important AT_A_TIME, before the loss passes MAX_LOSS.

    Scores are computed anew after each removal, with a seed of their own. The last neuron of
    a layer stays.
    """
    graph = trace(model, images[:1])
    for number in range(0, 16 + 32 + 120 + 84, AT_A_TIME):
        scores = criterion(1000 * seed + number).score(model, graph, minibatches(images, labels))
        plan = without_least(scores)
        model = remove_channels(model, graph, plan)
        graph = graph.narrowed(plan.units_kept(graph))
        if training_loss(model, images, labels) > MAX_LOSS:
            return number
    raise AssertionError("a network of one neuron per layer has learnt the digits")


def minibatches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


def without_least(scores: Mapping[str, Tensor]) -> KeepPlan:
    """All neurons but the AT_A_TIME with the lowest scores; of every layer one is kept."""
    keep = {name: set(range(len(values))) for name, values in scores.items()}
    ranked = sorted(
        (float(value), name, index)
        for name, values in scores.items()
        for index, value in enumerate(values)
    )
    left = AT_A_TIME
    for _, name, index in ranked:
        if left and len(keep[name]) > 1:
            keep[name].remove(index)
            left -= 1
    return KeepPlan({name: tuple(sorted(kept)) for name, kept in keep.items()})


@pytest.fixture(scope="module")
def shown() -> tuple[Tensor, Tensor]:
    return digits()


@pytest.fixture(scope="module")
def networks(shown: tuple[Tensor, Tensor]) -> Sequence[nn.Module]:
    """One that has learnt the digits for each seed."""
    models = [trained(seed, *shown) for seed in SEEDS]
    assert all(training_loss(model, *shown) < 0.05 for model in models)
    return models


@pytest.mark.slow
def test_taylor_prunes_more_neurons_than_magnitude_and_chance(
    networks: Sequence[nn.Module], shown: tuple[Tensor, Tensor]
) -> None:
    counts = {
        name: [num_pruned(model, criterion, *shown, seed) for seed, model in enumerate(networks)]
        for name, criterion in CRITERIA.items()
    }
    for taylor in ("first order", "second order"):
        for other in ("magnitude", "random"):
            gains = [a - b for a, b in zip(counts[taylor], counts[other], strict=True)]
            assert min(gains) > 0, (taylor, other, counts)
            assert sum(gains) / len(gains) >= 10, (taylor, other, counts)


@pytest.mark.slow
def test_taylor_ranks_neurons_as_trying_each_does(
    networks: Sequence[nn.Module], shown: tuple[Tensor, Tensor]
) -> None:
    """Spearman's rank correlation with the oracle over all neurons; a worse Taylor falls behind."""
    criteria = {**CRITERIA, "blurred": BlurredTaylor}
    found: dict[str, list[float]] = {name: [] for name in criteria}
    for seed, model in enumerate(networks):
        graph, batches = trace(model, shown[0][:1]), minibatches(*shown)
        tried = Oracle().score(model, graph, batches)
        for name, criterion in criteria.items():
            scores = criterion(seed).score(model, graph, batches)
            pairs = torch.cat([scores[group] for group in tried]), torch.cat([*tried.values()])
            found[name].append(float(spearmanr(*pairs).statistic))
    means = {name: statistics.fmean(values) for name, values in found.items()}
    assert means["first order"] > 0.94, means
    assert means["second order"] > 0.91, means
    assert means["blurred"] < 0.91, means
    assert max(means["magnitude"], means["random"]) < means["blurred"], means
