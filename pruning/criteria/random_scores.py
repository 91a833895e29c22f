"""Chance as a criterion: what any other must beat."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from pruning.criteria.criterion import Batches, Criterion
from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph


@final
class Random(Criterion):
    """A score per unit from U(0, 1); the same for the same seed and groups."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        batches: Batches = (),  # noqa: ARG002 - nor data
    ) -> dict[str, Tensor]:
        if not graph.prunable:
            raise CriterionError("this network has no prunable channel group: nothing to score")
        like = next(model.parameters())
        dtype = torch.promote_types(like.dtype, torch.float32)
        generator = torch.Generator().manual_seed(self.seed)
        scores = {}
        for group in graph.prunable:
            units = torch.rand(group.num_units, generator=generator, dtype=torch.float64)
            channels = units[torch.from_numpy(group.unit_of_channel)]
            scores[group.name] = channels.to(like.device, dtype)
        return scores
