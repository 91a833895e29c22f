"""Criteria from gradients of the gates: one pass over the data gives all of them together.

Source of the Taylor criteria: Molchanov et al., "Importance Estimation for Neural Network Pruning".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria.criterion import (
    Batches,
    BatchLoss,
    GateCriterion,
    Loss,
    minibatches,
    on_a_copy,
)
from pruning.criteria.filters import scale_axes
from pruning.criteria.gradient_moments import GradientMoments, GradientObserver
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.wrappers import unwrapped
from pruning.unit_costs import flops_saved


class FirstOrderCriterion(GateCriterion):
    """A function of GradientMoments; most can judge every prunable group.

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

    def judge(self, gates: ChannelGates, batches: Batches = ()) -> Tensor:
        return judged_together({type(self).__name__: (self, gates)}, batches)[0]


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
class TaylorOutput(FirstOrderCriterion):
    """mean_n |∂L_n/∂z| of a sample's loss, over the root of its squares in the layer; in [0, 1].

    ∂L_n/∂z is the sum over positions of activation · gradient, so that this is the average over
    a feature map of the earlier Taylor criterion on outputs but for its number of positions, which
    a layer's maps share and the division takes out. All zeros in a layer where none matters.
    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
        Inference", §2.2, eq. 8, normalised as in "Normalization"; "Taylor-output" of the later
        paper's table 2, which does not say whether it normalises.
    """

    needs_samples = True

    def of(self, moments: GradientMoments) -> Tensor:
        scores = moments.sample_absolutes / moments.num_samples
        for part in moments.gates.by_layer(scores).values():  # views
            part.div_(part.norm().clamp(min=torch.finfo(part.dtype).tiny))
        return scores


@final
class TaylorBatchNormScale(FirstOrderCriterion):
    """Σ (γ·∂E/∂γ)² over the batch normalisations of a channel, averaged over minibatches; ≥ 0.

    What `BatchNormScale` is to the size of γ, by first order. It covers channels with batch
    normalisation; sigmoid ones, whose parameter is no scale, are left out.
    Source: Molchanov et al., table 2, "BN scale" with Taylor FO, and eq. 8: individual
        contributions add up.
    """

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        scaled = {
            number
            for axis in scale_axes(unwrapped(model), graph)
            for number in set(axis.groups.tolist())
        }
        names = super().covers(model, graph)
        return tuple(name for name in names if graph.index(name) in scaled)

    def gates(self, model: nn.Module, graph: ChannelGraph) -> ChannelGates:
        if graph.prunable and not self.covers(model, graph):
            raise CriterionError(
                f"{type(model).__name__} has no batch normalisation with a scale along a prunable "
                "group, which this criterion reads: choose another criterion or network"
            )
        return super().gates(model, graph)

    def of(self, moments: GradientMoments) -> Tensor:
        return moments.scale_squares / moments.num_batches


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
        gates = moments.gates
        flops = flops_saved(gates.graph, gates.names, moments.widths)
        units = {name: gates.graph.group(name).num_units for name in gates.names}
        saved = {name: delta.new_full((number,), flops[name]) for name, number in units.items()}
        return delta - self.flops_penalty * gates.joined(saved)


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
    the criteria differ in their loss, or one is of another kind.
    """
    pairs = {
        name: (FirstOrderCriterion.checked(criterion), criterion.gates(model, graph))
        for name, criterion in criteria.items()
    }
    judged = judged_together(pairs, batches)
    return {
        name: gates.by_channel(scores)
        for (name, (_, gates)), scores in zip(pairs.items(), judged, strict=True)
    }


def judged_together(
    criteria: Mapping[str, tuple[FirstOrderCriterion, ChannelGates]], batches: Batches
) -> list[Tensor]:
    """The scores of several criteria on gates of one network, (U,) each, from one pass."""
    losses = list(dict.fromkeys(criterion.loss for criterion, _ in criteria.values()))
    if len(losses) != 1:
        raise CriterionError(
            f"one pass has one loss, but {', '.join(criteria) or 'no criteria'} have {len(losses)}"
        )
    layouts = {(gates.names, gates.placement): gates for _, gates in criteria.values()}
    every = gradient_moments(
        list(layouts.values()), batches, losses[0], criteria=" and ".join(criteria)
    )
    moments = dict(zip(layouts, every, strict=True))
    return [
        criterion.of(moments[gates.names, gates.placement])
        for criterion, gates in criteria.values()
    ]


def gradient_moments(
    layouts: Sequence[ChannelGates], batches: Batches, loss: Loss | BatchLoss, *, criteria: str
) -> list[GradientMoments]:
    """The moments of a network in eval mode, of each of these sets of gates, from one pass.

    The network is left as it was.
    criteria: what needs the data, in the error for bad data.
    """
    with on_a_copy(layouts) as copies:
        observers, model = [GradientObserver(gates) for gates in copies], copies[0].model
        learned = {name: p for observer in observers for name, p in observer.parameters}
        for batch in minibatches(batches, loss, criteria):
            with ExitStack() as stack:
                probes = [stack.enter_context(gates.probing(batch.num_samples)) for gates in copies]
                energy = batch.loss(model)
            # Not while probing: there the call's own arguments would be probed.
            values = torch.autograd.grad(energy, list(learned.values()), allow_unused=True)
            gradients = dict(zip(learned, values, strict=True))
            for observer, probe in zip(observers, probes, strict=True):
                observer.add(probe.gradients, gradients)
    moments = [observer.moments for observer in observers]
    if not all(one.sample_squares.isfinite().all() for one in moments):
        raise CriterionError(
            f"{criteria}: a gradient is infinite or not a number; look at the loss and the data"
        )
    return moments
