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
Fisher criterion every 100 updates); Theis et al., "Faster gaze prediction with dense networks and
Fisher pruning", §2 (the penalty on FLOPs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.cost import Budget, Cost, ExampleInput
from pruning.criteria.averaging import ScoreAverage
from pruning.criteria.criterion import Batches, Criterion
from pruning.criteria.first_order import FirstOrderCriterion
from pruning.criteria.gradient_moments import GradientObserver
from pruning.errors import ConfigError, CriterionError
from pruning.gates.channel_gates import ChannelGates, Gated
from pruning.graph.channel_graph import ChannelGraph
from pruning.optimizer_state import carry_over, check_trains
from pruning.ranking import Step, removal_steps
from pruning.restrictions import Restrictions
from pruning.rules import Offered, Rules
from pruning.selection import KeepPlan, absolute_limits, least_widths, unreachable
from pruning.surgery import remove_channels
from pruning.tracing import whole_trace
from pruning.unit_costs import flops_saved


@dataclass(frozen=True)
class Pace:
    """How iterative pruning goes.

    units: channels (or units of channels that go together) removed per pruning step, N. Where
        several go at once (a divisor, uniform scope), a step ends with the first that makes it N.
    minibatches: between two pruning steps, K; scores are means over them.
    surgery_every: pruning steps between two real removals; until then channels are gated. Criteria
        that are not of gates' gradients judge what is left, so that it is always 1 for them.
    momentum: of the moving average of scores over pruning steps, in [0, 1); the Taylor paper
        takes 0.9, and 0 forgets.
    flops_penalty: β ≥ 0: of each unit's score, averaged, β times the FLOPs are taken that its
        removal saves at the widths that are left (Theis et al., §2; Crowley et al. set it to 0).
    reset_momentum: whether the optimizer begins anew after each pruning step, without the momentum
        of the network that was. The Taylor paper (§4.2.2) resets it once, when pruning is over.
    """

    units: int = 1
    minibatches: int = 10
    surgery_every: int = 10
    momentum: float = 0.9
    flops_penalty: float = 0.0
    reset_momentum: bool = False

    def __post_init__(self) -> None:
        for name in ("units", "minibatches", "surgery_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be from 0 to below 1, got {self.momentum!r}")
        if not 0 <= self.flops_penalty < float("inf"):
            raise ConfigError(
                f"flops_penalty must be finite and at least 0, got {self.flops_penalty!r}"
            )


FISHER_PACE = Pace(units=1, minibatches=100, momentum=0.0)
"""Crowley et al., §3: the single channel with the lowest value every 100 updates."""


@dataclass(frozen=True)
class Removable:
    """What may be removed, as for `pruning.select`.

    groups: names of the groups that may lose channels; all that the criterion can judge if None.
    rules: floor, divisor, scope and weight of costs.
    restrictions: what stays whole or loses no more than a share.  exact, whole_heads: as for
        `trace`.
    """

    groups: Sequence[str] | None = None
    rules: Rules = field(default_factory=Rules)
    restrictions: Restrictions = field(default_factory=Restrictions)
    exact: bool = True
    whole_heads: bool = False

    @property
    def offered(self) -> Offered:
        """What a trace is to offer."""
        return Offered(self.exact, self.whole_heads)


@dataclass(frozen=True)
class TrajectoryPoint:
    """The network after a pruning step (Crowley et al., Fig. 1, red curve).

    minibatches: seen so far.  removed: channels gone so far.
    widths: what is left of the groups that are pruned; the shape of the network.
    flops, params: of that shape (fvcore's convention).
    score: of the network, where somebody has measured and recorded it.
    """

    minibatches: int
    removed: int
    widths: Mapping[str, int]
    flops: int
    params: int
    score: float | None = None


class IterativePruner:
    """Prunes a network bit by bit while it trains, until its budgets are met.

    model: left untouched; a copy of it is in `network`, which is to be trained.
    example_input: as for `trace`, which here has no limit in time.
    criterion: of any kind.
    budget: what to prune to, shares refer to `model`; or several, all to be met in turn: the
        pruning step that meets one of them ends there, so that no network is smaller than it has to
        be (`smaller` is that network).
    pace: how fast, and how.  removable: what may go; everything that the criterion can judge.
    batches: minibatches for a criterion that needs data and is not a FirstOrderCriterion; passed
        over at each pruning step, so no iterator that is used up.

    trajectory: a point for every pruning step.

    Raises UnreachableBudgetError before any training if the floor is over budget, CriterionError
    for a criterion that cannot judge the network or lacks its data.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: ExampleInput,
        criterion: Criterion,
        budget: Budget | Sequence[Budget],
        pace: Pace | None = None,
        *,
        removable: Removable | None = None,
        batches: Batches = (),
    ) -> None:
        self._criterion, self._batches = Criterion.checked(criterion), batches
        self._pace, self._removable = pace or Pace(), removable or Removable()
        whole = whole_trace(model, example_input, self._removable.offered)
        self._removable.restrictions.check(whole)
        graph = self._removable.restrictions.of(whole)
        groups = _judged(criterion, model, graph, self._removable)
        self._base = graph.pruning(groups)
        self._limits = _reachable(budget, self._base, groups, self._removable.rules)
        everything = {name: tuple(range(self._base.group(name).width)) for name in groups}
        self._present = self._plan = KeepPlan(everything)
        self._cost = self._base.cost()
        self._num_minibatches = 0
        self.trajectory: list[TrajectoryPoint] = []
        self._average = ScoreAverage(self._pace.momentum)
        self._judged: dict[str, Tensor] = {}
        self._graph = whole
        self._gates = ChannelGates(remove_channels(model, whole, KeepPlan({})), whole, groups)
        self.network = Gated(self._gates)
        self._observer = self._observer_of(self._gates)
        if not self._is_watching:
            if batches is iter(batches):
                raise CriterionError("batches must be there at each step: a list, no iterator")
            self._scores()  # what the criterion lacks is found out before any training

    @property
    def is_finished(self) -> bool:
        """Whether the network, without its gated channels, is within every budget."""
        return self._num_met == len(self._limits)

    @property
    def plan(self) -> KeepPlan:
        """What is left of the channels of the network that pruning began with."""
        return self._plan

    @property
    def cost(self) -> Cost:
        """Of the network without its gated channels, in closed form."""
        return self._cost

    @property
    def scores(self) -> dict[str, Tensor]:
        """What every channel of the first network was judged by when it was judged last.

        That is the newest pruning step for those that are left, and the one that they went in for
        the others. Shape (width,) per group; empty before the first pruning step.
        """
        return {name: values.clone() for name, values in self._judged.items()}

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
        self.trajectory.append(self._point())
        surgery_every = self._pace.surgery_every if self._is_watching else 1
        if self.is_finished or len(self.trajectory) % surgery_every == 0:
            self._operate(optimizer)
        if self._pace.reset_momentum:
            for parameter in self.network.parameters():
                optimizer.state.pop(parameter, None)
        return True

    def record_score(self, score: float) -> None:
        """Note what the network of the newest point is worth; before the first, nothing."""
        if self.trajectory:
            self.trajectory[-1] = replace(self.trajectory[-1], score=score)

    def smaller(self) -> nn.Module:
        """A new network: the present one without its gated channels and gates; training goes on."""
        return remove_channels(self.network.model, self._graph, self._left)

    def finish(self, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """The network as it stands, without its gated channels and without gates.

        optimizer: as for `after_step`; needed where channels are gated, whose removal changes the
            parameters: ConfigError without it. That of a network within its budgets has been done.
        """
        if self._plan != self._present:
            check_trains(optimizer, self.network)
            assert optimizer is not None
            self._operate(optimizer)
        return self.network.model

    def state_dict(self) -> dict[str, Any]:
        """All that continuing needs besides the network's and the optimizer's state.

        Tensors, numbers and strings only (torch.load with weights_only).
        """
        return {
            "present": {name: list(channels) for name, channels in self._present.keep.items()},
            "plan": {name: list(channels) for name, channels in self._plan.keep.items()},
            "scores": self._average.scores,
            "judged": self.scores,
            "moments": self._observer.state_dict(),
            "num_minibatches": self._num_minibatches,
            "trajectory": [asdict(point) for point in self.trajectory],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a pruner made with the same arguments.

        Afterwards `network` has the shapes to load its own state, and an optimizer made of its
        parameters those for its.
        """
        device = self.network.mask.device
        self._set_plan(_plan_of(state["present"]))
        self._replace()
        self._set_plan(_plan_of(state["plan"]))
        self._average = ScoreAverage(self._pace.momentum)
        self._average.update({name: scores.to(device) for name, scores in state["scores"].items()})
        self._judged = {name: scores.to(device) for name, scores in state["judged"].items()}
        self._observer.load_state_dict(state["moments"])
        self._num_minibatches = state["num_minibatches"]
        self.trajectory = [TrajectoryPoint(**point) for point in state["trajectory"]]

    @property
    def _left(self) -> KeepPlan:
        """What the plan leaves of the present network's channels."""
        return self._plan.within(self._present)

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
        """Per channel of the first network, by the criterion; 0 for those that are gone for real.

        Shape (width,) per group.
        """
        if isinstance(self._criterion, FirstOrderCriterion):
            scores = self._observer.gates.by_channel(self._criterion.of(self._observer.moments))
        else:
            scores = self._criterion.score(self.network.model, self._graph, self._batches)
        spread = {}
        for name, channels in self._present.keep.items():
            spread[name] = scores[name].new_zeros(self._base.group(name).width)
            spread[name][torch.tensor(channels, device=spread[name].device)] = scores[name]
        return spread

    def _prune(self) -> None:
        """Gate what scores lowest: as many units as the pace says, or the next budget needs."""
        scores = self._average.scores
        if not self._has_fixed_scores:
            scores = self._average.update(self._scores())
        if self._pace.flops_penalty:
            saved = flops_saved(self._base, self._plan.keep, self._plan.widths)
            penalty = self._pace.flops_penalty
            scores = {name: values - penalty * saved[name] for name, values in scores.items()}
        self._note(scores)
        kept = self._plan.units_kept(self._base)
        num_met, num_gone = self._num_met, 0
        rules = self._removable.rules
        wanted = next(limits for limits in self._limits if not limits.allows(self._cost))
        for step in removal_steps(scores, self._base, rules, kept, wanted.quantities):
            self._set_plan(self._without(step))
            num_gone += sum(len(chunk.units) for chunk in step)
            if num_gone >= self._pace.units or self._num_met > num_met:
                break
        self._observer.reset(self._left.widths)

    def _note(self, scores: Mapping[str, Tensor]) -> None:
        """Remember the scores of the channels that are still there."""
        for name, kept in self._plan.keep.items():
            judged = self._judged.setdefault(name, scores[name].clone())
            judged[list(kept)] = scores[name][list(kept)]

    def _without(self, step: Step) -> KeepPlan:
        """The plan without the units of a step as well."""
        keep = dict(self._plan.keep)
        for chunk in step:
            group = self._base.groups[chunk.group]
            units = group.unit_of_channel
            keep[group.name] = tuple(c for c in keep[group.name] if units[c] not in chunk.units)
        return KeepPlan(keep)

    def _set_plan(self, plan: KeepPlan) -> None:
        """Close the gates of what this plan leaves out of the present network."""
        self._plan, self._cost = plan, self._base.cost(plan.widths)
        self.network.mask.copy_(self._gates.mask(self._left))

    @property
    def _num_met(self) -> int:
        """Budgets that the network is within."""
        return sum(limits.allows(self._cost) for limits in self._limits)

    def _operate(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the gated channels for real and put the smaller network in place."""
        before, graph, left = self.network.model, self._graph, self._left
        self._replace()
        carry_over(optimizer, before, self.network.model, graph, left)

    def _replace(self) -> None:
        """Put the network without its gated channels in place of the present one."""
        model = self.smaller()
        self._graph = self._graph.narrowed(self._left.units_kept(self._graph))
        self._present = self._plan
        self._gates = ChannelGates(model, self._graph, self._plan.keep)
        self._observer = self._observer_of(self._gates)
        self.network.exchange(self._gates)

    def _point(self) -> TrajectoryPoint:
        widths = self._plan.widths
        removed = sum(self._base.group(name).width - width for name, width in widths.items())
        return TrajectoryPoint(
            self._num_minibatches, removed, widths, self._cost.flops, self._cost.params
        )


def _judged(
    criterion: Criterion, model: nn.Module, graph: ChannelGraph, removable: Removable
) -> tuple[str, ...]:
    """The groups that are pruned; CriterionError if the criterion cannot judge one of them."""
    covered = criterion.covers(model, graph)
    chosen = covered if removable.groups is None else tuple(removable.groups)
    missing = [name for name in chosen if name not in covered]
    if missing or not chosen:
        what = f"group {missing[0]!r}" if missing else "any group"
        raise CriterionError(
            f"{type(criterion).__name__} cannot judge {what} of this network: choose another "
            "criterion, or other groups"
        )
    return tuple(group.name for group in removable.rules.prunable(graph, chosen))


def _reachable(
    budget: Budget | Sequence[Budget], graph: ChannelGraph, groups: Sequence[str], rules: Rules
) -> tuple[Budget, ...]:
    """The budgets in absolute numbers; UnreachableBudgetError if the floor is over one of them."""
    least = least_widths(graph, groups, min_channels=rules.min_channels, divisor=rules.divisor)
    floor = graph.cost(least)
    budgets = (budget,) if isinstance(budget, Budget) else tuple(budget)
    limits = tuple(absolute_limits(each, graph, groups, rules) for each in budgets)
    for each in limits:
        if not each.allows(floor):
            raise unreachable(each, floor)
    return limits


def _plan_of(channels: Mapping[str, Sequence[int]]) -> KeepPlan:
    return KeepPlan({name: tuple(kept) for name, kept in channels.items()})
