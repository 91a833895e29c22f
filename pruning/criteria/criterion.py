"""What every criterion is, and how it looks at a network without disturbing it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from pruning.cost import called, in_mode
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates
from pruning.gates.placement import CONSUMED, At, Per, Placement, is_normalised
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.copies import copied
from pruning.networks.nested_tensors import num_samples
from pruning.networks.torch_interior import BatchNorm, Dropout

Batches = Iterable[Any]
"""Minibatches on the network's device: pairs of inputs and targets, or what a BatchLoss takes.

Inputs are what the network is called with: a tensor N×…, a tuple of arguments or a mapping of them.
Targets are what the loss takes: class numbers N, say, or anything else.
"""

Loss = Callable[[Any, Any], Tensor]
"""What the network returns, of any kind, and targets → the mean loss E, a scalar."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of whole minibatches, whatever they are, as a step of training has it.

    step: network and minibatch → the mean loss, a scalar. The network is in training mode, but for
        batch normalisation and dropout, and torch's random numbers are the same each time.
    num_samples: how many samples a minibatch has.
    """

    step: Callable[[nn.Module, Any], Tensor]
    num_samples: Callable[[Any], int]


@dataclass(frozen=True)
class Minibatch:
    """One minibatch of `num_samples` samples; `loss(model)` is its mean loss, a scalar."""

    num_samples: int
    loss: Callable[[nn.Module], Tensor]


class Criterion(ABC):
    """Judges the channels of a network; higher means more important.

    is_fixed: whether iterative pruning takes its scores once, at its first step.
    """

    is_fixed: bool = False

    @classmethod
    def checked(cls, criterion: object) -> Self:
        """`criterion`, which is of this class; CriterionError for any other object."""
        if isinstance(criterion, cls):
            return criterion
        if isinstance(criterion, type) and issubclass(criterion, cls):
            got = f"the class {criterion.__name__}: write {criterion.__name__}()"
        else:
            got = f"one of {type(criterion).__name__}: take one of those there, or derive from it"
        raise CriterionError(
            f"a criterion must be an instance of pruning.criteria.{cls.__name__}, got {got}"
        )

    def fixed(self) -> Self:
        """The same criterion, whose scores iterative pruning does not estimate again.

        What goes once makes no difference to pruning in one shot. Source: Molchanov et al.,
        "Importance Estimation for Neural Network Pruning", fig. 4, "Oracle-fixed" and
        "Taylor FO-fixed".
        """
        changed = copy.copy(self)
        changed.is_fixed = True
        return changed

    def covers(
        self,
        model: nn.Module,  # noqa: ARG002 - for criteria that need layers of some kind
        graph: ChannelGraph,
    ) -> tuple[str, ...]:
        """The names of the prunable groups that this criterion can judge, in graph order."""
        return tuple(group.name for group in graph.prunable)

    def by_loss(self, loss: Loss | BatchLoss) -> Self:
        """The same criterion, judging by another loss; itself where it does not look at any."""
        if "loss" not in vars(self):
            return self
        changed = copy.copy(self)
        vars(changed)["loss"] = loss
        return changed

    @abstractmethod
    def score(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches = ()
    ) -> dict[str, Tensor]:
        """One score per channel, shape (width,), for every group that it covers.

        Scores are on the network's device, in its dtype or float32 if that is wider. Channels
        that go together (a residual stream's, a unit's) have one joint score. The model runs in
        eval mode and is left as it was: weights, gradients, statistics, mode; and so is torch's
        random state. Criteria without need for data ignore `batches`.
        Raises CriterionError if it covers no group, or lacks the data that it needs.
        """


class GateCriterion(Criterion):
    """Judges gates, wherever they are placed; the score of a channel is that of its gate.

    Where the convolutions of a stream have gates of their own, a channel's score is the sum of
    theirs (Molchanov et al., §3.2, "Importance score aggregation", say so of parameters).
    """

    placement: Placement = CONSUMED

    def placed(self, at: At = "consumer", per: Per = "stream") -> Self:
        """The same criterion on gates that are placed so, see Placement.

        Raises ConfigError for other words.
        """
        changed = copy.copy(self)
        changed.placement = Placement(at, per)
        return changed

    def covers(self, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        """None where gates are to act before batch normalisation and the network has none."""
        names = super().covers(model, graph)
        if self.placement == CONSUMED:
            return names
        if self.placement.at == "convolution" and not is_normalised(model, graph):
            return ()
        return tuple(name for name in names if self.placement.fits(model, graph.group(name)))

    def gates(self, model: nn.Module, graph: ChannelGraph) -> ChannelGates:
        """Gates of all groups that it covers; CriterionError if there is none."""
        covered = self.covers(model, graph)
        if not covered and self.placement != CONSUMED and graph.prunable:
            raise CriterionError(
                f"{type(model).__name__} has no prunable channels behind which batch normalisation "
                "would follow a gate: judge by gates where channels are consumed"
            )
        return ChannelGates(model, graph, covered, self.placement)

    @abstractmethod
    def judge(self, gates: ChannelGates, batches: Batches = ()) -> Tensor:
        """One score per gate, shape (U,), whatever `placement` is."""

    def score(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches = ()
    ) -> dict[str, Tensor]:
        gates = self.gates(model, graph)
        return gates.by_channel(self.judge(gates, batches))


def minibatches(
    batches: Iterable[Any], loss: Loss | BatchLoss, criterion: str
) -> Iterator[Minibatch]:
    """Each of `batches`, with its loss, for the criterion of this name.

    Raises CriterionError for a batch without targets or samples, if there is no batch, and for a
    loss that is no scalar.
    """
    number = -1
    for number, batch in enumerate(batches):
        if isinstance(loss, BatchLoss):
            one = Minibatch(loss.num_samples(batch), _of_step(loss, batch))
        else:
            one = _labelled(loss, batch, f"batch {number}", criterion)
        if not one.num_samples:
            raise CriterionError(f"{criterion} needs data: batch {number} has no sample")
        yield replace(one, loss=_scalar(one.loss, criterion))
    if number < 0:
        raise CriterionError(
            f"{criterion} needs labelled data: pass batches=, pairs of inputs and targets "
            "(an iterator can be used up)"
        )


def _labelled(loss: Loss, batch: Any, name: str, criterion: str) -> Minibatch:
    """A pair of inputs and targets."""
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not is_pair or batch[1] is None:
        raise CriterionError(
            f"{criterion} needs labelled data: {name} is not a pair of inputs and targets"
        )
    inputs, targets = batch
    try:
        count = num_samples(inputs)
    except ValueError as error:
        raise CriterionError(
            f"{criterion} needs data: the inputs of {name}, of type {error}"
        ) from error
    return Minibatch(count, lambda model: loss(called(model, inputs), targets))


def _of_step(loss: BatchLoss, batch: Any) -> Callable[[nn.Module], Tensor]:
    def energy(model: nn.Module) -> Tensor:
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        with torch.random.fork_rng(devices=list(devices)), _as_in_training(model):
            return loss.step(model, batch)

    return energy


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Training mode, in which networks return losses, say, but nothing normalises or drops."""
    with in_mode(model, training=True):
        for module in model.modules():
            if isinstance(module, BatchNorm | Dropout):
                module.eval()
        yield


def _scalar(loss: Callable[[nn.Module], Tensor], criterion: str) -> Callable[[nn.Module], Tensor]:
    def energy(model: nn.Module) -> Tensor:
        value = loss(model)
        if value.dim():
            raise CriterionError(
                f"{criterion}: the loss must be the mean over a minibatch, a scalar, got shape "
                f"{tuple(value.shape)}"
            )
        return value

    return energy


@contextmanager
def on_a_copy(layouts: Sequence[ChannelGates]) -> Iterator[list[ChannelGates]]:
    """The same gates of one network, on a copy of it that may run and be left in any state.

    The copy is in eval mode, shares the values of its parameters, and all of them require
    gradients. torch's random state is afterwards what it was.
    """
    model = copied(layouts[0].model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        yield [gates.on(model) for gates in layouts]
