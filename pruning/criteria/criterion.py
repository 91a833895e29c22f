"""What every criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from pruning.channel_graph import ChannelGraph

Batches = Iterable[tuple[Tensor, Tensor]]
"""Minibatches of images N×C×H×W and class numbers N."""


class Criterion(ABC):
    """Judges the channels of a network; higher means more important."""

    @abstractmethod
    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        """The names of the prunable groups that this criterion can judge, in graph order."""

    @abstractmethod
    def score(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches = ()
    ) -> dict[str, Tensor]:
        """One score per channel, shape (width,), for every group that it covers.

        Raises CriterionError if it covers none.
        """
