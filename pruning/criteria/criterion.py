"""What every criterion is, and how it looks at a network without disturbing it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.nested_tensors import num_samples

Batches = Iterable[tuple[Any, Any]]
"""Minibatches of inputs and targets, on the network's device.

Inputs are what the network is called with: a tensor N×…, a tuple of arguments or a mapping of them.
Targets are what the loss takes: class numbers N, say, or anything else.
"""

Loss = Callable[[Any, Any], Tensor]
"""What the network returns, of any kind, and targets → the mean loss E, a scalar."""


class Criterion(ABC):
    """Judges the channels of a network; higher means more important."""

    def covers(
        self,
        model: nn.Module,  # noqa: ARG002 - for criteria that need layers of some kind
        graph: ChannelGraph,
    ) -> tuple[str, ...]:
        """The names of the prunable groups that this criterion can judge, in graph order."""
        return tuple(group.name for group in graph.prunable)

    def by_loss(self, loss: Loss) -> Self:
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


def labelled(batches: Iterable[Any], criterion: str) -> Iterator[tuple[Any, Any, int]]:
    """Each of `batches` as inputs, targets and the number of samples, for this criterion.

    Raises CriterionError for a batch without targets or samples, and if there is no batch.
    """
    number = -1
    for number, batch in enumerate(batches):
        is_pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not is_pair or batch[1] is None:
            raise CriterionError(
                f"{criterion} needs labelled data: batch {number} is not a pair of inputs and "
                "targets"
            )
        inputs, targets = batch
        try:
            count = num_samples(inputs)
        except ValueError as error:
            raise CriterionError(
                f"{criterion} needs data: the inputs of batch {number}, of type {error}"
            ) from error
        if not count:
            raise CriterionError(f"{criterion} needs data: batch {number} has no sample")
        yield inputs, targets, count
    if number < 0:
        raise CriterionError(
            f"{criterion} needs labelled data: pass batches=, pairs of inputs and targets "
            "(an iterator can be used up)"
        )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """While this is open, `model` is in eval mode and all its parameters require gradients.

    Afterwards modes, `requires_grad` and torch's random state are what they were. Gradients
    accumulated in `.grad` are the caller's to keep: use `torch.autograd.grad`.
    """
    modes = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, training in modes:
            module.training = training
