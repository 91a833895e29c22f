"""Gates with learnable scaling factors: filters, layers, branches and blocks, in any combination.

Every gate φ lies between 0 and 1. A penalty per granularity drives gates down during training, and
a threshold or a budget then decides which structures and channels go.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors".
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.cost import Budget, Cost, ExampleInput
from pruning.errors import ConfigError, CriterionError, PlanError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.wrappers import unwrapped
from pruning.regularizers.penalties import Penalty, l1
from pruning.restrictions import Restrictions
from pruning.rules import Offered
from pruning.scaling_factors.filter_gates import FilterGates
from pruning.scaling_factors.gated_structures import GatedStructures
from pruning.scaling_factors.gating import GRANULARITIES, Gating, Granularity
from pruning.selection import MIN_CHANNELS, KeepPlan, unreachable
from pruning.structure_removal.structures import (
    KINDS,
    Kind,
    Structure,
    ends_of_layers,
    find,
    fresh_shortcuts,
    replaced,
)
from pruning.surgery import remove_channels
from pruning.tracing import whole_trace

_NEEDED: Mapping[Kind, str] = {
    "layer": "a convolution behind the first that a smaller shortcut can replace",
    "full-layer": "a convolution behind the first that a smaller shortcut can replace, with batch "
    "normalisation or an activation behind it",
    "branch": "a module that adds a branch to a shortcut",
    "block": "a module with several paths that a smaller shortcut can replace",
}

Thresholds = float | Mapping[Granularity, float]
"""One for all granularities, or one each; nothing goes of a granularity without one."""


@dataclass(frozen=True)
class Decision:
    """What goes and what stays once the gates are learned; JSON-able (dataclasses.asdict).

    removed: structures that go; one inside another would go with it anyway.
    keep: channels whose gates stay open, per gated group of `pruning.trace` of the network as
        it was before; empty without filter gates.
    """

    removed: tuple[Structure, ...]
    keep: KeepPlan


class ScalingFactors(nn.Module):
    """A copy of a network with learnable gates, to be trained in place of the network.

    model: left untouched.
    example_input: as for `pruning.trace`.
    granularities: what is gated.
    residual: whether filter gates reach channels along residual streams.
    exact: whether filter gates reach only channels whose removal leaves the others their values;
        see `trace`.  whole_heads: as there.
    restrictions: what keeps its channels, and has no gates or goes no further.
    pruned_layers: those whose filters count as `channels` of a cost (see ChannelGraph.pruning); by
        default those that have filter gates.
    seed: of the gates' first values, uniform in (0, 1) (§5.1), and of the 1×1 convolutions of
        added shortcuts.
    gating: what gates learn, where filter gates act, and what has gates of what could.

    Raises ConfigError for an unknown granularity or none, or for both of "layer" and "full-layer",
    and CriterionError if the network has nothing to gate at one of them.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: ExampleInput,
        granularities: Collection[Granularity],
        *,
        residual: bool = True,
        exact: bool = True,
        whole_heads: bool = False,
        restrictions: Restrictions | None = None,
        pruned_layers: frozenset[str] | None = None,
        seed: int = 0,
        gating: Gating | None = None,
    ) -> None:
        super().__init__()
        model, chosen = unwrapped(model), _checked(granularities)
        self._offered = Offered(exact, whole_heads)
        restrictions, gating = restrictions or Restrictions(), gating or Gating()
        wanted = [kind for kind in KINDS if kind in chosen]
        gateable = {
            structure: shortcut
            for structure, shortcut in find(model, example_input, wanted, restrictions).items()
            if gating.allows(structure.kind, [structure.name])
        }
        for kind in wanted:
            if not any(structure.kind == kind for structure in gateable):
                raise _nothing_to_gate(model, kind, gating)
        generator, like = torch.Generator().manual_seed(seed), next(model.parameters())
        self.gated = GatedStructures(
            model,
            fresh_shortcuts(model, gateable, seed),
            gating.first(len(gateable), like, generator),
            gating,
            ends_of_layers(model, example_input, gateable),
        )
        self.filters: FilterGates | None = None
        if "filter" in chosen:
            self.filters = FilterGates(
                self.gated,
                example_input,
                generator,
                residual=residual,
                offered=self._offered,
                restrictions=restrictions,
                gating=gating,
            )
            pruned_layers = pruned_layers or self.filters.layers
        self.gating = gating
        self._example_input = example_input
        self._pruned_layers = pruned_layers
        self._graphs: dict[frozenset[Structure], ChannelGraph] = {}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with self.filters.multiplying() if self.filters else nullcontext():
            return self.gated(*inputs, **named)

    @property
    def network(self) -> nn.Module:
        """The network inside, whose layers have their own names."""
        return self.gated.model

    @property
    def structures(self) -> tuple[Structure, ...]:
        """The gated layers, branches and blocks."""
        return self.gated.structures

    @property
    def gates(self) -> dict[Granularity, dict[str, Tensor]]:
        """φ per granularity and name: a scalar per structure, (units,) per group of filters."""
        gates: dict[Granularity, dict[str, Tensor]] = {}
        if self.filters is not None:
            gates["filter"] = self.filters.by_group
        for structure in self.structures:
            value = self.gated.gate(structure).value
            gates.setdefault(structure.kind, {})[structure.name] = value
        return gates

    @property
    def learned(self) -> list[nn.Parameter]:
        """What the gates learn: a vector for all filters, a scalar per structure; see Gating."""
        filters = [] if self.filters is None else [self.filters.learned]
        return [*filters, *(self.gated.gate(structure).learned for structure in self.structures)]

    def clip(self) -> None:
        """Bring what clipped gates learn back to [0, 1]; to be called after each step."""
        if self.gating.form == "clipped":
            with torch.no_grad():
                for learned in self.learned:
                    learned.clamp_(0, 1)

    def penalty(
        self,
        strengths: Mapping[Granularity, float],
        penalties: Penalty | Mapping[Granularity, Penalty] = l1,
    ) -> Tensor:
        """Σ λ·penalty(φ) over the granularities (eq. 14), a scalar to be added to the loss.

        The gates of the structures of a kind make one vector, and the filter gates of each
        group one of its own; each counts as penalty(φ) / length (§5.1, §5.2).
        strengths: λ ≥ 0 per gated granularity; 0 where it is left out.
        penalties: one for all, or one per granularity with a strength.
        """
        gates, total = self.gates, next(self.gated.parameters()).new_zeros(())
        for granularity, strength in strengths.items():
            if granularity not in gates:
                raise ConfigError(
                    f"a strength for {granularity!r}, but the gates are on {', '.join(gates)}"
                )
            if not 0 <= strength < math.inf:
                raise ConfigError(f"λ of {granularity} must be at least 0, got {strength!r}")
            penalty = penalties[granularity] if isinstance(penalties, Mapping) else penalties
            values = list(gates[granularity].values())
            for vector in values if granularity == "filter" else [torch.stack(values)]:
                total = total + strength * penalty(vector) / len(vector)
        return total

    def decide(self, threshold: Thresholds, *, min_channels: int = MIN_CHANNELS) -> Decision:
        """Everything goes whose gate is below the threshold.

        min_channels: channels that stay of each group, those with the largest gates, or its
            width if it has fewer; more where the network needs more.
        """
        if min_channels < 1:
            raise ConfigError(f"min_channels must be at least 1, got {min_channels}")
        limits = dict(threshold if isinstance(threshold, Mapping) else {})
        if not isinstance(threshold, Mapping):
            limits = dict.fromkeys(GRANULARITIES, threshold)
        if any(math.isnan(limit) for limit in limits.values()):
            raise ConfigError(f"a threshold must be a number, got {threshold!r}")
        removed = tuple(
            structure
            for structure in self.structures
            if float(self.gated.gate(structure).value.detach())
            < limits.get(structure.kind, -math.inf)
        )
        if self.filters is None:
            return Decision(removed, KeepPlan({}))
        limit = limits.get("filter", -math.inf)
        return Decision(removed, self.filters.keep(limit, min_channels))

    def decide_to(self, budget: Budget, *, min_channels: int = MIN_CHANNELS) -> Decision:
        """The decision at the least threshold, common to all gates, that meets `budget`.

        Found by bisection over the gates' values: with a threshold one value lower the budget
        is not met. Shares refer to the network without gates. Raises UnreachableBudgetError,
        naming the nearest reachable cost, if all gates closed are still over budget.
        """
        limits = budget.absolute(self.cost(self.decide(-math.inf)))
        values = [v.detach().reshape(-1) for gates in self.gates.values() for v in gates.values()]
        thresholds = [*sorted(set(torch.cat(values).tolist())), math.inf]
        floor = self.cost(self.decide(math.inf, min_channels=min_channels))
        if not limits.allows(floor):
            raise unreachable(limits, floor)

        def is_met(threshold: float) -> bool:
            return limits.allows(self.cost(self.decide(threshold, min_channels=min_channels)))

        least = bisect_left(thresholds, True, key=is_met)
        return self.decide(thresholds[least], min_channels=min_channels)

    def cost(self, decision: Decision) -> Cost:
        """What `plain(decision)` costs, without making it."""
        widths = self.widths(decision)
        return self._graph_without(decision.removed).cost(widths)

    def widths(self, decision: Decision) -> dict[str, int]:
        """Channels that `plain(decision)` has of every group, without making it.

        By the names of groups in the trace of the network without the structures that go.
        """
        self._check(decision)
        graph = self._graph_without(decision.removed)
        return graph.widths | self._plan(graph, decision).widths

    def decided(self, decision: Decision) -> ScalingFactors:
        """A copy whose gates are set: 1 and no shortcut for structures that stay, 0 for others.

        Filter gates that stay open keep their values. It computes what `plain` does.
        """
        self._check(decision)
        result = copy.deepcopy(self)
        result.gated.set(decision.removed, stands=False)
        if result.filters is not None:
            graph = self._graph_without(decision.removed)
            result.filters.close(graph, decision.removed, decision.keep)
        return result

    def settled(self, decision: Decision) -> ScalingFactors:
        """A copy whose gates are 0 for what goes and 1 for all else, its added shortcuts in place.

        To be trained before `plain` takes gates and shortcuts away: "any value between (0, 1)
        would mean that the scaling factor was providing scaling" (§5.4). Gates learn no more.
        Filter gates act where they did: on outputs, batch normalisation goes on behind a 0.
        """
        self._check(decision)
        result = copy.deepcopy(self)
        result.gated.set(decision.removed, stands=True)
        if result.filters is not None:
            result.filters.settle(decision.keep)
        for learned in result.learned:
            learned.requires_grad_(False)
        return result

    def plain(self, decision: Decision) -> nn.Module:
        """The network that is left, without gates: a new one, of stock layers.

        What stays keeps its parameter names and loses its added shortcut; its gate becomes
        one (§5.4). What goes is replaced by its shortcut, see `remove_structures`. Filter gates
        are folded into the weights that they act on, and channels that go are removed.
        """
        final = self.decided(decision)
        if final.filters is not None:
            final.filters.fold()
        gone = {structure: final.gated.shortcut(structure) for structure in decision.removed}
        shorter = replaced(final.gated.ungated(), self._example_input, gone)
        if final.filters is None:
            return shorter
        graph = self._graph_without(decision.removed)
        return remove_channels(shorter, graph, self._plan(graph, decision))

    def _plan(self, graph: ChannelGraph, decision: Decision) -> KeepPlan:
        if self.filters is None:
            return KeepPlan({})
        return self.filters.plan(graph, decision.removed, decision.keep)

    def _graph_without(self, removed: Collection[Structure]) -> ChannelGraph:
        """Made once per set of structures: shapes do not change while the network is trained."""
        key = frozenset(removed)
        if key not in self._graphs:
            gone = {s: self.gated.shortcut(s) for s in self.structures if s in key}
            shorter = replaced(self.gated.ungated(), self._example_input, copy.deepcopy(gone))
            graph = whole_trace(shorter, self._example_input, self._offered)
            self._graphs[key] = graph.pruning_layers(self._pruned_layers)
        return self._graphs[key]

    def _check(self, decision: Decision) -> None:
        for structure in decision.removed:
            if structure not in self.structures:
                raise PlanError(
                    f"the decision removes the {structure.kind} {structure.name!r}, "
                    "which has no gate"
                )


def _checked(granularities: Collection[Granularity]) -> frozenset[Granularity]:
    if not granularities or not set(granularities) <= set(GRANULARITIES):
        raise ConfigError(
            f"granularities are some of {', '.join(GRANULARITIES)}, got {granularities!r}"
        )
    if {"layer", "full-layer"} <= set(granularities):
        raise ConfigError(
            "granularities layer and full-layer are gates on the same convolutions: choose one"
        )
    return frozenset(granularities)


def _nothing_to_gate(model: nn.Module, kind: Kind, gating: Gating) -> CriterionError:
    if kind in gating.only:
        patterns = " or ".join(gating.only[kind])
        return CriterionError(
            f"{type(model).__name__} has no {kind} to gate that {patterns} fits: "
            "pruning.structures lists those that can"
        )
    return CriterionError(
        f"{type(model).__name__} has no {kind} to gate ({_NEEDED[kind]}): "
        "leave this granularity out"
    )
