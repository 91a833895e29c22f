"""Minibatches that criteria look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from search.config.search_config import SearchConfig
from search.data.data import Batch, Data


@dataclass(frozen=True)
class ScoringBatches:
    """Minibatches of training samples as they are, the same whenever they are gone through.

    count: how many at most; those of the settings by default.
    """

    data: Data
    config: SearchConfig
    seed: int
    device: torch.device
    count: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self.data.scoring_batches(
            self.count or self.config.scoring_batches,
            batch_size=self.config.training.batch_size,
            seed=self.seed,
            device=self.device,
        )
