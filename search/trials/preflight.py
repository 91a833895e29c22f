"""Preflight: is the budget reachable? Asked, and answered, before any compute is spent."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from copycat.build import without_removed
from copycat.builder import Builder
from copycat.families.base_network import BaseNetwork
from copycat.input_shape import InputShape, input_shape_of
from copycat.width_profile import WidthProfile
from pruning.cost import Bound, Budget, Cost, ExampleInput, called, format_count
from pruning.errors import (
    ConfigError,
    CriterionError,
    ModelError,
    TraceError,
    UnreachableBudgetError,
    first_line,
)
from pruning.fvcore_count import measure_cost
from pruning.gates.placement import Placement
from pruning.graph.channel_graph import ChannelGraph
from pruning.restrictions import Restrictions
from pruning.selection import absolute_limits, least_widths, unreachable
from pruning.structure_removal.structures import KINDS, Structure, remove_structures, structures
from pruning.tracing import trace, whole_trace
from search.config.methods import method, parts_of
from search.config.search_config import SearchConfig
from search.data.data import Sample
from search.tasks import registry as tasks
from search.tasks.criterion_loss import criterion_loss
from search.tasks.score import Score
from search.tasks.task import Task, words_for
from search.trials.pareto import Reference


@dataclass(frozen=True)
class Preflight:
    """What every trial of a search shares; it holds no weights and can be sent anywhere.

    graph: of the network, under the restrictions; `groups` are what is pruned of it.
    groups: names of the channel groups that are scored and pruned, and narrowed in families.
    limits: the budget in absolute numbers.
    floor: the least cost that every granularity of the search can reach.
    base_score: of the network with the trained weights that were given, on validation data; None
        without such, or where it was not measured.  weights: what is to be said of them, in lines.
    targets: what trials are pruned to where that is not searched.
    least_rung: the smallest fraction of the budget at which networks are compared.
    score: what networks are compared by, beside their cost.
    """

    builder: Builder
    graph: ChannelGraph
    groups: tuple[str, ...]
    sample: Sample
    budget: Budget
    limits: Budget
    base: Cost
    floor: Cost
    base_score: float | None = None
    weights: tuple[str, ...] = ()
    targets: tuple[Bound, ...] = ()
    least_rung: float = 1.0
    score: Score = field(kw_only=True)

    @property
    def example_input(self) -> ExampleInput:
        """The inputs of one sample, as the network is called with."""
        return self.sample.inputs

    @property
    def input_shape(self) -> InputShape:
        """What the network reads: (C, H, W) of an image, or as `copycat.input_shape_of` has it."""
        return input_shape_of(self.example_input)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.sample.classes

    def base_network(self, restrictions: Restrictions) -> BaseNetwork:
        """The network that families are derived from, under the restrictions of the search."""
        return BaseNetwork(self.builder, self.graph, self.example_input, restrictions)

    def graph_of(self, profile: WidthProfile) -> ChannelGraph:
        """The graph that prices this shape: without the structures that it lacks."""
        if profile.removed not in self._graphs:
            with torch.random.fork_rng(devices=[]):  # weights do not matter here
                base = self.builder()
            left = without_removed(base, profile, self.example_input)
            graph = whole_trace(left, self.example_input, self.graph.offered)
            self._graphs[profile.removed] = graph.pruning_layers(self.graph.pruned_layers)
        return self._graphs[profile.removed]

    @functools.cached_property
    def _graphs(self) -> dict[tuple[Structure, ...], ChannelGraph]:
        """By the structures that are missing."""
        return {(): self.graph}

    @property
    def flops_limit(self) -> int:
        """FLOPs that a network may cost: the budget's bound, or the base network's cost."""
        limit = self.limits.limit("flops")
        return self.base.flops if limit is None else min(int(limit), self.base.flops)

    @property
    def reference(self) -> Reference:
        """What the hypervolume of a search is measured from.

        Down to the smallest network that is asked for: the budget's FLOPs on the lowest rung of the
        ladder. Without a lower rung, or a bound on FLOPs, to the smallest that can be reached.
        """
        guessed = self.score.worst
        if self.score.counts_samples and self.classes:
            guessed = self.score.of_guessing(len(self.classes))
        least, limit = self.floor.flops, self.limits.limit("flops")
        if limit is not None and self.least_rung < 1:
            least = max(least, int(self.limits.scaled(self.least_rung).limit("flops") or 0))
        return Reference(guessed, self.flops_limit, least)

    def describe(self) -> list[str]:
        """Base cost, reachable range and budget, a line each."""
        names = [bound.quantity for bound in self.budget.bounds]
        widest = max(map(len, names))
        base, floor = (_counts(cost, names) for cost in (self.base, self.floor))
        lines = [
            f"base network  {base}  (fvcore, eval mode; 1 multiply-add = 1 FLOP)",
            *(f"weights       {line}" for line in self.weights),
            f"reachable     {floor}  and more",
        ]
        for bound, limit in zip(self.budget.bounds, self.limits.bounds, strict=True):
            share = limit.value / self.base.of(bound.quantity)
            lines.append(
                f"budget        {bound.quantity:<{widest}} ≤ {format_count(limit.value)} "
                f"({100 * share:.3g} % of the base network)"
            )
        if self.targets:
            lines.append(f"targets       {', '.join(map(str, self.targets))}, within the budget")
        lines += [f"note          {note}" for note in self.base.notes]
        num_channels = self.base.channels or 0
        lines.append(f"prunable      {num_channels:,} channels in {len(self.groups)} groups")
        if inexact := [name for name in self.groups if self.graph.group(name).inexact]:
            lines.append(
                f"inexact       {len(inexact)} of the {len(self.groups)} groups only inexactly: "
                "the smaller networks are trained anyway"
            )
        return lines


def check(
    config: SearchConfig, builder: Builder, sample: Sample, task: Task | None = None
) -> Preflight:
    """Trace the network and hold its reachable range against the budget.

    task: what is learned; by default what the settings name.
    Raises UnreachableBudgetError naming the nearest reachable value, ModelError for a network
    that cannot run on these images or puts out another number of classes, CriterionError for
    one that a method of the search cannot judge or that lacks a granularity.
    """
    model = builder()
    try:
        whole = whole_trace(model, sample.inputs, config.offered)
    except TraceError as error:
        raise ModelError(f"{config.model}: {error}") from error
    config.offered.check(whole)
    config.restrictions.check(whole)
    graph = config.restrictions.of(whole)
    task = task or tasks.resolve(config.task)
    _check_output(config, model, sample, task)
    _check_loss(config, task)
    groups = judged_groups(config, model, graph, config.criteria)
    graph = graph.pruning(groups)
    base = graph.cost()
    _check_count(config, model, base, sample)
    budget = config.bounds
    if budget.limit("channels") is not None and not groups:
        raise _nothing_to_prune(config, model, graph, sample.inputs)
    limits = absolute_limits(budget, graph, groups, config.rules)
    floors = [_floor(g, config, model, graph, sample.inputs) for g in config.granularities]
    for floor in floors:
        if not limits.allows(floor):
            raise unreachable(limits, floor)
    targets = (*config.target_bounds, *config.fixed.target_flops)
    for target in targets:
        count = absolute_limits(Budget((target,)), graph, groups, config.rules)
        _check_target(target, count, limits, floors)
    floor = max(floors, key=lambda cost: cost.flops)
    found = (builder, graph, groups, sample, budget, limits, base, floor)
    return Preflight(*found, targets=targets, least_rung=min(config.rungs), score=task.score)


def _check_target(target: Bound, count: Budget, limits: Budget, floors: Sequence[Cost]) -> None:
    """ConfigError for a target above the budget, UnreachableBudgetError for one below the floor.

    count: the target in absolute numbers.
    """
    name = target.quantity
    limit = limits.limit(name)
    if limit is not None and (count.limit(name) or 0) > limit:
        raise ConfigError(
            f"the target {target} is above the budget, {name} of at most {limit:,.0f}, within "
            "which every network is pruned: raise the budget (flops=100% bounds nothing), or "
            "leave the target out"
        )
    for floor in floors:
        if not count.allows(floor):
            raise UnreachableBudgetError(f"target {target}: {unreachable(count, floor)}")


def _check_loss(config: SearchConfig, task: Task) -> None:
    """CriterionError if a method cannot judge by the loss that the task has."""
    for name in config.criteria:
        if (make := method(name).criterion) is not None:
            try:
                make({}).by_loss(criterion_loss(task))
            except CriterionError as error:
                learned = type(task).__name__
                raise CriterionError(f"{name} cannot judge by {learned}: {error}") from error


def judged_groups(
    config: SearchConfig, model: nn.Module, graph: ChannelGraph, criteria: Iterable[str]
) -> tuple[str, ...]:
    """The groups that every one of these methods can judge or gate and the search may prune."""
    gating = config.gates.as_gating
    gateable = tuple(
        g.name
        for g in graph.prunable
        if gating.allows("filter", g.producers) and Placement(gating.at).fits(model, g)
    )
    covered = [
        chosen.criterion({}).covers(chosen.prepared(model, 0), graph)
        if chosen.criterion is not None
        else gateable
        for chosen in map(method, criteria)
    ]
    return tuple(
        group.name
        for group in graph.prunable
        if (config.prune_residual or not group.residual)
        and all(group.name in names for names in covered)
    )


def _nothing_to_prune(
    config: SearchConfig, model: nn.Module, graph: ChannelGraph, example_input: ExampleInput
) -> CriterionError:
    """Why no group can be judged by all methods of the search."""
    wider = dataclasses.replace(config, prune_residual=True)
    if judged_groups(wider, model, graph, config.criteria):
        return CriterionError(
            f"{config.model} has no prunable channels besides residual streams: "
            "--prune-residual prunes those"
        )
    if graph.offered.exact:
        free = config.restrictions.of(trace(model, example_input, exact=False))
        for flags, freer in (("--no-exact", config), ("--no-exact --prune-residual", wider)):
            if judged_groups(freer, model, free, config.criteria):
                return CriterionError(
                    f"{config.model} has no channels that could go without changing what is made "
                    f"of the others: {flags} prunes some anyway"
                )
    for name in config.criteria:
        if not judged_groups(wider, model, graph, [name]):
            needs = " with batch normalisation" if method(name).reads_batchnorm else ""
            return CriterionError(
                f"{config.model} has no prunable channels{needs}, which {name} judges: choose "
                "another network or criterion"
            )
    names = ", ".join(config.criteria)
    return CriterionError(f"{config.model} has no channels that all of {names} can judge")


def _floor(
    granularity: str,
    config: SearchConfig,
    model: nn.Module,
    graph: ChannelGraph,
    example_input: ExampleInput,
) -> Cost:
    """The least cost that pruning this mixture is sure to reach.

    With channels in it that is their floor, whatever gates leave of the structures. Raises
    CriterionError if the network has nothing of one part.
    """
    parts = parts_of(granularity)
    kinds = [part for part in KINDS if part in parts]
    gating = config.gates.as_gating
    removable = [
        structure
        for structure in (
            structures(model, example_input, kinds, config.restrictions) if kinds else ()
        )
        if gating.allows(structure.kind, [structure.name])
    ]
    for kind in kinds:
        if not any(structure.kind == kind for structure in removable):
            named = f" of the names that --gate gives {kind}" if kind in gating.only else ""
            raise CriterionError(
                f"{config.model} has no {kind} that could go{named}: leave {kind} out of "
                "--granularity, or choose other names"
            )
    if "filter" not in parts:
        left = trace(remove_structures(model, example_input, removable), example_input)
        return left.pruning_layers(graph.pruned_layers).cost()
    groups = judged_groups(config, model, graph, config.criteria)
    if not groups:
        raise _nothing_to_prune(config, model, graph, example_input)
    least = least_widths(graph, groups, min_channels=config.min_channels, divisor=config.divisor)
    return graph.cost(least)


def _check_count(config: SearchConfig, model: nn.Module, base: Cost, sample: Sample) -> None:
    """Count once as everything that is stored will be counted; the two have to agree."""
    try:
        measured = measure_cost(model, sample.inputs)
    except TraceError as error:
        raise ModelError(f"{config.model}: {error}") from error
    if measured != base:
        raise ModelError(
            f"{config.model}: fvcore counts {measured.flops:,} FLOPs and {measured.params:,} "
            f"parameters, the closed form {base.flops:,} and {base.params:,}, so that nothing "
            "could be certified: please report the network, or leave out what makes the difference"
        )


def _check_output(config: SearchConfig, model: nn.Module, sample: Sample, task: Task) -> None:
    model.eval()
    try:
        with torch.no_grad():
            outputs = called(model, sample.inputs)
    except Exception as error:  # a user's network may raise anything
        raise ModelError(
            f"{config.model} cannot run on inputs {words_for(sample.inputs)} in float32: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    try:
        task.check_outputs(outputs, sample)
    except ModelError as error:
        raise ModelError(f"{config.model} {error}") from error


def _counts(cost: Cost, names: Iterable[str]) -> str:
    """FLOPs, parameters and, of these quantities, channels and those in bytes."""
    parts = [f"{format_count(cost.flops)} FLOPs", f"{format_count(cost.params)} params"]
    further = (n for n in names if n.endswith("_bytes") or n == "channels")
    parts += [f"{format_count(cost.of(name))} {name}" for name in further]
    return ", ".join(parts)
