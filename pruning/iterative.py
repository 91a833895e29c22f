"""Iterative pruning while a network trains; whoever owns the training loop calls in.

By criteria of the gates' gradients (Taylor, Fisher …) training itself is watched:

    pruner = IterativePruner(model, example_input, Taylor(), Budget.parse("flops=50%"), Pace())
    optimizer = torch.optim.SGD(pruner.network.parameters(), lr=0.01, momentum=0.9)
    for images, labels in batches:
        with pruner.watching(len(images)):
            loss = F.cross_entropy(pruner.network(images), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.after_step(optimizer)
    smaller = pruner.finish(optimizer)

Any other criterion judges the network as it stands, from weights alone or from minibatches that the
pruner is given (batches=…); `watching` may then be left out.

Sources: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3.1–3.2; Crowley
et al., "Pruning neural networks: is it time to nip it in the bud?", §3 (one channel by the
Fisher criterion every 100 updates).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.cost import Budget, ExampleInput
from pruning.criteria.averaging import ScoreAverage
from pruning.criteria.criterion import Batches, Criterion
from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientObserver
from pruning.errors import ConfigError, CriterionError
from pruning.gates.channel_gates import ChannelGates, Gated
from pruning.graph.channel_graph import ChannelGraph
from pruning.optimizer_state import carry_over, check_trains
from pruning.restrictions import Restrictions
from pruning.selection import MIN_CHANNELS, KeepPlan, least_widths, removal_order, unreachable
from pruning.surgery import remove_channels
from pruning.tracing import trace

Measure = Callable[[nn.Module], float]
"""A network → its error, in [0, 1]; must leave the network as it is."""


@dataclass(frozen=True)
class Pace:
    """How fast iterative pruning goes.

    units: channels (or units of channels that go together) removed per pruning step, N.
    minibatches: between two pruning steps, K; scores are means over them.
    surgery_every: pruning steps between two real removals; until then channels are gated. Criteria
        that are not of gates' gradients judge what is left, so that it is always 1 for them.
    momentum: of the moving average of scores over pruning steps, in [0, 1); the Taylor paper
        takes 0.9, and 0 forgets.
    """

    units: int = 1
    minibatches: int = 10
    surgery_every: int = 10
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("units", "minibatches", "surgery_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be from 0 to below 1, got {self.momentum!r}")


FISHER_PACE = Pace(units=1, minibatches=100, momentum=0.0)
"""Crowley et al., §3: the single channel with the lowest value every 100 updates."""


@dataclass(frozen=True)
class TrajectoryPoint:
    """The network after some pruning (Crowley et al., Fig. 1, red curve).

    minibatches: seen so far.  removed: channels gone so far.  flops, params: of the network
    without them (fvcore's convention).  error: what `measure` said, in [0, 1], or NaN.
    """

    minibatches: int
    removed: int
    flops: int
    params: int
    error: float


class IterativePruner:
    """Prunes a network bit by bit while it trains, until a budget is met.

    model: left untouched; a copy of it is in `network`, which is to be trained.
    example_input: as for `trace`.
    criterion: of any kind.
    budget: what to prune to; shares refer to `model`.
    batches: minibatches for a criterion that needs data and is not a FirstOrderCriterion; passed
        over at each pruning step, so no iterator that is used up.
    groups: names of the groups that may lose channels; all that the criterion can judge if None.
    min_channels: channels that stay in each group, or its width if it has fewer.
    restrictions: what stays whole or loses no more than a share.
    exact: as for `trace`.
    measure: called after each real removal, for the trajectory.

    Raises UnreachableBudgetError before any training if the floor is over budget, CriterionError
    for a criterion that cannot judge the network or lacks its data.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: ExampleInput,
        criterion: Criterion,
        budget: Budget,
        pace: Pace | None = None,
        *,
        batches: Batches = (),
        groups: Iterable[str] | None = None,
        min_channels: int = MIN_CHANNELS,
        restrictions: Restrictions | None = None,
        exact: bool = True,
        measure: Measure | None = None,
    ) -> None:
        self._example_input, self._criterion, self._batches = example_input, criterion, batches
        self._pace, self._min_channels, self._measure = pace or Pace(), min_channels, measure
        self._restrictions = restrictions or Restrictions()
        self._base = trace(model, example_input, exact=exact)
        self._restrictions.check(self._base)
        graph = self._restrictions.of(self._base)
        self._groups = _judged(criterion, model, graph, groups)
        self._limits = budget.absolute(graph.cost())
        floor = graph.cost(least_widths(graph, self._groups, min_channels=min_channels))
        if not self._limits.allows(floor):
            raise unreachable(self._limits, floor)
        self._kept = {group.name: tuple(range(group.width)) for group in graph.groups}
        self._num_channels = sum(len(channels) for channels in self._kept.values())
        self.trajectory: list[TrajectoryPoint] = []
        self._num_minibatches = self._num_prunings = 0
        self._average = ScoreAverage(self._pace.momentum)
        self._graph = graph
        self._gates = ChannelGates(remove_channels(model, graph, KeepPlan({})), graph, self._groups)
        self.network = Gated(self._gates)
        self._observer = self._observer_of(self._gates)
        if not self._is_watching:
            if batches is iter(batches):
                raise CriterionError("batches must be there at each step: a list, no iterator")
            self._scores()  # what the criterion lacks is found out before any training

    @property
    def is_finished(self) -> bool:
        """Whether the network, without its gated channels, is within the budget."""
        return self._limits.allows(self._graph.cost(self._plan.widths))

    @property
    def plan(self) -> KeepPlan:
        """What is left of the channels of the network that pruning began with."""
        return KeepPlan(
            {
                name: tuple(self._kept[name][channel] for channel in channels)
                for name, channels in self._plan.keep.items()
            }
        )

    @contextmanager
    def watching(self, num_samples: int) -> Iterator[None]:
        """Around the forward and backward pass of one minibatch of `num_samples`."""
        if self.is_finished or not self._is_watching or self._has_fixed_scores:
            yield
            return
        with self._observer.watching(num_samples):
            yield

    def after_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """To be called after each update; prunes when it is time, and says whether it did.

        optimizer: what trains `network`; it goes on with the parameters of the smaller network,
            its state cut to what they keep (see `carry_over`). ConfigError if it is None or has
            none of the network's parameters, or a state that cannot be cut.
        """
        if self.is_finished:
            return False
        check_trains(optimizer, self.network)
        self._num_minibatches += 1
        if self._num_minibatches % self._pace.minibatches:
            return False
        self._prune()
        self._num_prunings += 1
        surgery_every = self._pace.surgery_every if self._is_watching else 1
        if self.is_finished or self._num_prunings % surgery_every == 0:
            self._operate(optimizer)
        return True

    def finish(self, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """The network as it stands, without its gated channels and without gates.

        optimizer: as for `after_step`; needed where channels are gated, whose removal changes the
            parameters: ConfigError without it. That of a network within its budget has been done.
        """
        if not bool(self.network.mask.all()):
            check_trains(optimizer, self.network)
            assert optimizer is not None
            self._operate(optimizer)
        return self.network.model

    def state_dict(self) -> dict[str, Any]:
        """All that continuing needs besides the network's and the optimizer's state.

        Tensors, numbers and strings only (torch.load with weights_only).
        """
        return {
            "kept": {name: list(channels) for name, channels in self._kept.items()},
            "mask": self.network.mask.clone(),
            "scores": self._average.scores,
            "moments": self._observer.state_dict(),
            "num_minibatches": self._num_minibatches,
            "num_prunings": self._num_prunings,
            "trajectory": [asdict(point) for point in self.trajectory],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a pruner made with the same arguments.

        Afterwards `network` has the shapes to load its own state, and an optimizer made of its
        parameters those for its.
        """
        kept = {name: tuple(channels) for name, channels in state["kept"].items()}
        self._replace(KeepPlan(kept))
        self.network.mask.copy_(state["mask"])
        self._average = ScoreAverage(self._pace.momentum)
        self._average.update(state["scores"])
        self._observer.load_state_dict(state["moments"])
        self._num_minibatches = state["num_minibatches"]
        self._num_prunings = state["num_prunings"]
        self.trajectory = [TrajectoryPoint(**point) for point in state["trajectory"]]

    @property
    def _plan(self) -> KeepPlan:
        """What the mask leaves of the present network's channels."""
        stays = self._gates.by_channel(self.network.mask.cpu())
        return KeepPlan(
            {name: tuple(values.nonzero().flatten().tolist()) for name, values in stays.items()}
        )

    @property
    def _is_watching(self) -> bool:
        """Whether training itself tells the criterion what it needs."""
        return isinstance(self._criterion, FirstOrderCriterion)

    @property
    def _has_fixed_scores(self) -> bool:
        """Whether the criterion is fixed and has judged."""
        return self._criterion.is_fixed and bool(self._average.scores)

    def _observer_of(self, gates: ChannelGates) -> GradientObserver:
        """Of gates where the criterion has them; `gates` are those that close."""
        if not isinstance(self._criterion, FirstOrderCriterion):
            return GradientObserver(gates)
        placement = self._criterion.placement
        return GradientObserver(ChannelGates(gates.model, gates.graph, gates.names, placement))

    def _scores(self) -> dict[str, Tensor]:
        """Of the present network's channels, by the criterion."""
        if isinstance(self._criterion, FirstOrderCriterion):
            values = self._criterion.of(self._observer.moments)
            return self._observer.gates.by_channel(values)
        scores = self._criterion.score(self.network.model, self._graph, self._batches)
        return {name: scores[name] for name in self._gates.names}

    def _prune(self) -> None:
        """Gate the units with the lowest scores, as many as the pace says or the budget needs."""
        mask, scores = self.network.mask, self._average.scores
        if not self._has_fixed_scores:
            scores = self._average.update(self._scores())
        order = removal_order(scores, self._graph, kept=self._plan, min_channels=self._min_channels)
        for name, unit in order[: self._pace.units]:
            self._gates.by_group(mask)[name][unit] = 0  # a view of the mask
            if self.is_finished:
                break
        self._observer.reset(self._plan.widths)

    def _operate(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the gated channels for real and put the smaller network in place."""
        before, graph, plan = self.network.model, self._graph, self._plan
        self._replace(plan)
        self._average.keep(plan)
        carry_over(optimizer, before, self.network.model, graph, plan)
        self.trajectory.append(self._point())

    def _replace(self, plan: KeepPlan) -> None:
        """Put the network without the channels that `plan` leaves out in place of the present."""
        smaller = remove_channels(self.network.model, self._graph, plan)
        self._kept = {
            name: tuple(channels[c] for c in plan.keep.get(name, range(len(channels))))
            for name, channels in self._kept.items()
        }
        traced = trace(smaller, self._example_input, exact=self._graph.exact)
        self._graph = self._restrictions.of(traced, self._base)
        self._gates = ChannelGates(smaller, self._graph, self._groups)
        self._observer = self._observer_of(self._gates)
        self.network.exchange(self._gates)

    def _point(self) -> TrajectoryPoint:
        cost = self._graph.cost()
        error = math.nan if self._measure is None else self._measure(self.network.model)
        removed = self._num_channels - sum(len(channels) for channels in self._kept.values())
        return TrajectoryPoint(self._num_minibatches, removed, cost.flops, cost.params, error)


def _judged(
    criterion: Criterion, model: nn.Module, graph: ChannelGraph, names: Iterable[str] | None
) -> tuple[str, ...]:
    """The groups that are pruned; CriterionError if the criterion cannot judge one of them."""
    covered = criterion.covers(model, graph)
    chosen = covered if names is None else tuple(names)
    missing = [name for name in chosen if name not in covered]
    if missing or not chosen:
        what = f"group {missing[0]!r}" if missing else "any group"
        raise CriterionError(
            f"{type(criterion).__name__} cannot judge {what} of this network: choose another "
            "criterion, or other groups"
        )
    return chosen
