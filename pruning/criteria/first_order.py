"""Criteria from gradients of the gates: one pass over the data gives all of them together.

Source of the Taylor criteria: Molchanov et al., "Importance Estimation for Neural Network Pruning".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria.criterion import (
    Batches,
    BatchLoss,
    Criterion,
    Loss,
    minibatches,
    undisturbed,
)
from pruning.criteria.gradient_moments import GradientMoments, GradientObserver
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates
from pruning.graph.channel_graph import ChannelGraph
from pruning.unit_costs import flops_saved


class FirstOrderCriterion(Criterion):
    """A function of GradientMoments; it can judge every prunable group.

    loss: the mean loss E of a minibatch, from outputs and targets, or of whole minibatches.
    needs_samples: whether it needs the gradient of each sample's loss; CriterionError then for
        a loss of whole minibatches, in which samples may share what is computed.
    """

    needs_samples: ClassVar[bool] = False

    def __init__(self, loss: Loss | BatchLoss = F.cross_entropy) -> None:
        self._check(loss)
        self.loss = loss

    def by_loss(self, loss: Loss | BatchLoss) -> Self:
        self._check(loss)
        return super().by_loss(loss)

    def _check(self, loss: Loss | BatchLoss) -> None:
        if self.needs_samples and isinstance(loss, BatchLoss):
            raise CriterionError(
                f"{type(self).__name__} needs the loss of each sample, but this one is of whole "
                "minibatches: choose a criterion of those, such as Taylor, or give a loss of "
                "outputs and targets"
            )

    @abstractmethod
    def of(self, moments: GradientMoments) -> Tensor:
        """One score per unit, shape (U,)."""

    def score(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches = ()
    ) -> dict[str, Tensor]:
        name = type(self).__name__
        return score_together({name: self}, model, graph, batches)[name]


@final
class Taylor(FirstOrderCriterion):
    """(∂E/∂z)² of a minibatch's mean loss, averaged over minibatches; ≥ 0.

    Right behind a batch normalisation this is (γ·∂E/∂γ + β·∂E/∂β)². It depends on the size of
    the minibatches: in larger ones the samples' gradients cancel.
    Source: Molchanov et al., eq. 7 and 9, and §3.2, "Gate placement".
    """

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.batch_squares / moments.num_batches


@final
class TaylorFullGradient(FirstOrderCriterion):
    """(∂L_n/∂z)² of a sample's loss, averaged over samples; ≥ 0. Twice Fisher without penalty.

    Source: Molchanov et al., §4.1.2, "full grad".
    """

    needs_samples = True

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.sample_squares / moments.num_samples


@final
class TaylorWeights(FirstOrderCriterion):
    """Σ_s (g_s w_s)² over a unit's filters and their biases, averaged over minibatches; ≥ 0.

    Coupled channels add up over all of their producers.
    Source: Molchanov et al., eq. 8, and §3.2, "Importance score aggregation".
    """

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.weight_squares / moments.num_batches


@final
class Fisher(FirstOrderCriterion):
    """Δ = ½ · mean_n (∂L_n/∂z)², less `flops_penalty` times the FLOPs that removal saves.

    ∂L_n/∂z is the sum over positions of activation · gradient. Without a penalty scores are ≥ 0;
    with one, channels that are cheap to lose and expensive to run go first.
    flops_penalty: β ≥ 0, loss per FLOP (one multiply-add, batch 1); reasonable values are of
        the size of the loss over the network's FLOPs. FLOPs are saved at the widths that are
        left, see GradientMoments.widths.
    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", §2;
        Turner et al., "Pruning neural networks: is it time to nip it in the bud?".
    """

    needs_samples = True

    def __init__(
        self, flops_penalty: float = 0.0, *, loss: Loss | BatchLoss = F.cross_entropy
    ) -> None:
        if not 0 <= flops_penalty < float("inf"):
            raise CriterionError(
                f"flops_penalty must be finite and at least 0, got {flops_penalty}"
            )
        super().__init__(loss)
        self.flops_penalty = flops_penalty

    def of(self, moments: GradientMoments) -> Tensor:
        delta = moments.sample_squares / (2 * moments.num_samples)
        if not self.flops_penalty:
            return delta
        gates, saved = moments.gates, torch.zeros_like(delta)
        flops = flops_saved(gates.graph, gates.names, moments.widths)
        for name, part in gates.by_group(saved).items():  # views
            part.fill_(flops[name])
        return delta - self.flops_penalty * saved


@final
class Snip(FirstOrderCriterion):
    """|∂E/∂z| of the mean loss over all the data, as a share of the sum over all units; in [0, 1].

    Pass a freshly initialised network. All zeros if no gate matters.
    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        eq. 6, with a gate per channel in place of one per weight.
    """

    def of(self, moments: GradientMoments) -> Tensor:
        sensitivity = moments.sample_sums.abs()
        return sensitivity / sensitivity.sum().clamp(min=torch.finfo(sensitivity.dtype).tiny)


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
    gates: ChannelGates, batches: Batches, loss: Loss | BatchLoss, *, criteria: str
) -> GradientMoments:
    """The moments of a network in eval mode; the network is left as it was.

    criteria: what needs the data, in the error for bad data.
    """
    observer = GradientObserver(gates)
    with undisturbed(gates.model):
        names, parameters = zip(*observer.parameters, strict=True)
        for batch in minibatches(batches, loss, criteria):
            with gates.probing(batch.num_samples) as probe:
                energy = batch.loss(gates.model)
            # Not while probing: there the call's own arguments would be probed.
            gradients = torch.autograd.grad(energy, parameters, allow_unused=True)
            observer.add(probe.gradients, dict(zip(names, gradients, strict=True)))
    moments = observer.moments
    if not moments.sample_squares.isfinite().all():
        raise CriterionError(
            f"{criteria}: a gradient is infinite or not a number; look at the loss and the data"
        )
    return moments
