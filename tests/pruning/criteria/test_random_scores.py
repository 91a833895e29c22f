"""Random scores: uniform, and the seed's."""

from __future__ import annotations

import torch
from torch import nn

from pruning import trace
from pruning.criteria import Random


def test_scores_are_uniform_and_the_seeds() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4000, 1), nn.Conv2d(4000, 2, 1))
    graph = trace(model, torch.zeros(1, 1, 2, 2))
    first, again, other = (Random(seed).score(model, graph)["0"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    ordered, even = first.sort().values, (torch.arange(4000) + 0.5) / 4000
    assert (ordered - even).abs().max() < 0.03  # Kolmogorov–Smirnov, 1.9 / √4000
