"""Oracles: what removing channels does to the loss, by trying it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import final

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
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates
from pruning.graph.channel_graph import ChannelGraph

MAX_COMBINATIONS = 20_000
"""Passes over the data after which `combinatorial_oracle` refuses to start."""

Progress = Callable[[int, int], None]
"""Called with the networks evaluated so far and how many there will be."""


@final
class Oracle(GateCriterion):
    """(E(D) − E(D | unit gated off))² over all the data D, ≥ 0: the importance itself.

    Equation 3 of Molchanov et al., "Importance Estimation for Neural Network Pruning", for a
    neuron instead of a weight: E is the mean over samples. It costs one forward pass per unit
    and minibatch. The data is passed over once, and beyond one number per unit nothing is kept
    from one evaluation to the next, so the memory of a forward pass is enough for any network.

    loss: outputs and targets → the mean loss of the minibatch; or that of whole minibatches.
    on_unit: called after each evaluation of a unit on a minibatch, with the number of these so
        far and in all. Of minibatches without a length the ones seen so far count.
    """

    def __init__(
        self, loss: Loss | BatchLoss = F.cross_entropy, on_unit: Progress | None = None
    ) -> None:
        self.loss = loss
        self.on_unit = on_unit

    def judge(self, gates: ChannelGates, batches: Batches = ()) -> Tensor:
        single = [(unit,) for unit in range(gates.num_units)]
        losses = _mean_losses(gates, batches, self.loss, [(), *single], self.on_unit)
        exact = torch.promote_types(next(gates.model.parameters()).dtype, torch.float32)
        return ((losses[0] - losses[1:]) ** 2).to(exact)


@dataclass(frozen=True)
class Removal:
    """One step of `greedy_order`: which unit of which group went, and the mean loss then."""

    group: str
    unit: int
    loss: float


def greedy_order(
    model: nn.Module,
    graph: ChannelGraph,
    groups: Iterable[str],
    batches: Batches,
    num_removed: int,
    *,
    loss: Loss | BatchLoss = F.cross_entropy,
) -> tuple[Removal, ...]:
    """The units that go if at each of `num_removed` steps the one goes that leaves the least loss.

    The greedy oracle of Molchanov et al., §4.1.1. It costs a forward pass per unit, minibatch
    and step, and holds all minibatches. `groups` keep as many units as the network needs.
    Raises CriterionError without data or if `num_removed` is not between 1 and what can go.
    """
    gates = ChannelGates(model, graph, groups)
    _check_removable(gates, num_removed)
    places = _places(gates)
    data = list(batches)
    removals: list[Removal] = []
    gone: tuple[int, ...] = ()
    for _ in range(num_removed):
        counts = {name: sum(removal.group == name for removal in removals) for name in gates.names}
        candidates = [
            gate
            for gate, (name, _) in enumerate(places)
            if gate not in gone and counts[name] < _num_removable(graph, name)
        ]
        losses = _mean_losses(gates, data, loss, [(*gone, gate) for gate in candidates])
        best = int(losses.argmin())
        gone = (*gone, candidates[best])
        removals.append(Removal(*places[candidates[best]], float(losses[best])))
    return tuple(removals)


def combinatorial_oracle(
    model: nn.Module,
    graph: ChannelGraph,
    group: str,
    batches: Batches,
    num_removed: int,
    *,
    loss: Loss | BatchLoss = F.cross_entropy,
) -> tuple[tuple[int, ...], float]:
    """The `num_removed` units of one group whose removal leaves the least mean loss, and that.

    The combinatorial oracle of Molchanov et al., §4.1.1: it tries every subset of that size, a
    forward pass each per minibatch, and passes over the data once.
    Raises CriterionError without data, if `num_removed` is not between 1 and what can go, or
    for more than 20,000 subsets.
    """
    gates = ChannelGates(model, graph, [group])
    _check_removable(gates, num_removed)
    count = math.comb(gates.num_units, num_removed)
    if count > MAX_COMBINATIONS:
        raise CriterionError(
            f"removing {num_removed} of {gates.num_units} units of {group!r} can be done in "
            f"{count:,} ways, more than the {MAX_COMBINATIONS:,} that the combinatorial oracle "
            "tries: choose a smaller layer or use greedy_order"
        )
    subsets = list(itertools.combinations(range(gates.num_units), num_removed))
    losses = _mean_losses(gates, batches, loss, subsets)
    best = int(losses.argmin())
    return subsets[best], float(losses[best])


def _mean_losses(
    gates: ChannelGates,
    batches: Batches,
    loss: Loss | BatchLoss,
    removals: Sequence[Sequence[int]],
    on_removal: Progress | None = None,
) -> Tensor:
    """The mean loss over all samples with each of these sets of gates at zero, float64.

    removals: R sets of gates; on_removal is told of the non-empty ones.
    """
    like = next(gates.model.parameters())
    exact = torch.promote_types(like.dtype, torch.float32)
    values = torch.ones(gates.num_units, device=like.device, dtype=exact)
    sums = torch.zeros(len(removals), device=like.device, dtype=torch.float64)
    num_tried = sum(map(bool, removals))
    num_samples = done = 0
    with on_a_copy([gates]) as (copied_gates,), torch.no_grad():
        for number, batch in enumerate(minibatches(batches, loss, "the oracle"), start=1):
            total = num_tried * (len(batches) if isinstance(batches, Sized) else number)
            num_samples += batch.num_samples
            for place, removed in enumerate(removals):
                values[list(removed)] = 0
                with copied_gates.multiplying(values):
                    energy = batch.loss(copied_gates.model)
                values[list(removed)] = 1
                sums[place] += energy * batch.num_samples
                if on_removal is not None and removed:
                    done += 1
                    on_removal(done, total)
    if not sums.isfinite().all():
        raise CriterionError(
            "the oracle: a loss is infinite or not a number; look at the loss and the data"
        )
    return sums / num_samples


def _check_removable(gates: ChannelGates, num_removed: int) -> None:
    most = sum(_num_removable(gates.graph, name) for name in gates.names)
    if not 1 <= num_removed <= most:
        raise CriterionError(
            f"num_removed must be between 1 and {most}, the units of {', '.join(gates.names)} "
            f"that can go, got {num_removed}"
        )


def _num_removable(graph: ChannelGraph, name: str) -> int:
    group = graph.group(name)
    return group.num_units - group.floor()


def _places(gates: ChannelGates) -> list[tuple[str, int]]:
    """Group and unit of every gate."""
    return [
        (name, unit) for name in gates.names for unit in range(gates.graph.group(name).num_units)
    ]
