"""Criteria from gradients of the gates: one pass over the data gives all of them together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria.criterion import Batches, Criterion, Loss, labelled, undisturbed
from pruning.criteria.gradient_moments import GradientMoments, GradientObserver
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates
from pruning.graph.channel_graph import ChannelGraph


class FirstOrderCriterion(Criterion):
    """A function of GradientMoments; it can judge every prunable group.

    loss: the mean loss E of a minibatch, from outputs and targets.
    """

    def __init__(self, loss: Loss = F.cross_entropy) -> None:
        self.loss = loss

    @abstractmethod
    def of(self, moments: GradientMoments) -> Tensor:
        """One score per unit, shape (U,)."""

    def score(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches = ()
    ) -> dict[str, Tensor]:
        name = type(self).__name__
        return score_together({name: self}, model, graph, batches)[name]


def score_together(
    criteria: Mapping[str, FirstOrderCriterion],
    model: nn.Module,
    graph: ChannelGraph,
    batches: Batches,
) -> dict[str, dict[str, Tensor]]:
    """The scores of several criteria, by the names they are given, from one pass over the data.

    The same as each criterion's own `score`, for the cost of one. Raises CriterionError if
    the criteria differ in their loss.
    """
    losses = list(dict.fromkeys(criterion.loss for criterion in criteria.values()))
    if len(losses) != 1:
        raise CriterionError(
            f"one pass has one loss, but {', '.join(criteria) or 'no criteria'} have {len(losses)}"
        )
    gates = ChannelGates(model, graph)
    moments = gradient_moments(gates, batches, losses[0], criteria=" and ".join(criteria))
    return {name: gates.by_channel(criterion.of(moments)) for name, criterion in criteria.items()}


def gradient_moments(
    gates: ChannelGates, batches: Batches, loss: Loss, *, criteria: str
) -> GradientMoments:
    """The moments of a network in eval mode; the network is left as it was.

    criteria: what needs the data, in the error for bad data.
    """
    observer = GradientObserver(gates)
    with undisturbed(gates.model):
        names, parameters = zip(*observer.parameters, strict=True)
        for inputs, targets in labelled(batches, criteria):
            with gates.probing(len(inputs)) as probe:
                energy = loss(gates.model(inputs), targets)
            if energy.dim():
                raise CriterionError(
                    f"{criteria}: the loss must be the mean over a minibatch, a scalar, "
                    f"got shape {tuple(energy.shape)}"
                )
            # Not while probing: there the call's own arguments would be probed.
            found = torch.autograd.grad(energy, parameters, allow_unused=True)
            observer.add(probe.gradients, dict(zip(names, found, strict=True)))
    moments = observer.moments
    if not moments.sample_squares.isfinite().all():
        raise CriterionError(
            f"{criteria}: a gradient is infinite or not a number; look at the loss and the data"
        )
    return moments
