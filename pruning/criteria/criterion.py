"""What every criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from pruning.channel_graph import ChannelGraph

Batches = Iterable[tuple[Tensor, Tensor]]
"""Minibatches of inputs N×… and targets N (class numbers, say), on the network's device."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs N×… and targets N → the mean loss E of the minibatch, a scalar."""


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

        Channels that go together (a residual stream's, a unit's) have one joint score. The
        model runs in eval mode and is left as it was: weights, gradients, statistics, mode.
        Raises CriterionError if it covers no group, or lacks the data that it needs.
        """
