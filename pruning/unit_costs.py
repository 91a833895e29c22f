"""What a network costs with one unit of channels less."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pruning.cost import Budget, Cost
from pruning.graph.channel_graph import ChannelGraph
from pruning.rules import Rules

_OF_THE_LARGEST_STEP = "peak_activation_bytes"
"""A maximum, of which a unit may save nothing until others are gone."""


def costs_without_a_unit(
    graph: ChannelGraph, names: Iterable[str], widths: Mapping[str, int] | None = None
) -> dict[str, Cost]:
    """Per named group that can lose one, what the network costs with one unit of it less.

    widths: what is left of the groups; those that are left out are as wide as traced.
    """
    left = dict(widths or {})
    costs = {}
    for group in (graph.group(name) for name in names):
        width = left.get(group.name, group.width) - group.unit
        if width >= group.floor() * group.unit:
            costs[group.name] = graph.cost({**left, group.name: width})
    return costs


def flops_saved(
    graph: ChannelGraph, names: Iterable[str], widths: Mapping[str, int] | None = None
) -> dict[str, int]:
    """FLOPs that the removal of a unit saves, per group; 0 in those that cannot lose any more."""
    now, chosen = graph.cost(widths).flops, tuple(names)
    without = costs_without_a_unit(graph, chosen, widths)
    return {n: now - without[n].flops if n in without else 0 for n in chosen}


def relative_savings(
    graph: ChannelGraph,
    names: Iterable[str],
    quantities: Iterable[str],
    widths: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """What the removal of a unit saves per channel, per group that can lose one, at least 0.

    Of each of these quantities as a share of what the whole network takes, summed over them. The
    largest activations, of which a unit may save nothing until others are gone, are left out.
    """
    base, now = graph.cost(), graph.cost(widths)
    counted = {q: base.of(q) for q in quantities if q != _OF_THE_LARGEST_STEP and base.of(q) > 0}
    return {
        name: sum((now.of(q) - cost.of(q)) / whole for q, whole in counted.items())
        / graph.group(name).unit
        for name, cost in costs_without_a_unit(graph, names, widths).items()
    }


def fewest_units(
    graph: ChannelGraph, names: Iterable[str], budget: Budget, rules: Rules | None = None
) -> int:
    """So many units of these groups have to go at least, before a network is within `budget`.

    budget: in absolute numbers.  A lower bound: no unit saves more than it does while all others
    are there, since FLOPs, parameters and bytes of weights are sums of products of widths. The
    largest activations are no such sum, and are left out of account.
    """
    rules, base = rules or Rules(), graph.cost()
    groups = rules.prunable(graph, names)
    without = costs_without_a_unit(graph, [group.name for group in groups])
    removable = {g.name: g.num_units - rules.floor(g) for g in groups if g.name in without}
    fewest = 0
    for bound in budget.bounds:
        if bound.quantity == _OF_THE_LARGEST_STEP:
            continue
        excess = base.of(bound.quantity) - bound.value
        savings = {n: base.of(bound.quantity) - without[n].of(bound.quantity) for n in removable}
        fewest = max(fewest, _fewest(excess, savings, removable))
    return fewest


def _fewest(excess: float, savings: Mapping[str, float], removable: Mapping[str, int]) -> int:
    """Units to take, those first that save most, until nothing of `excess` is left."""
    count = 0
    for name in sorted(savings, key=lambda name: -savings[name]):
        if excess <= 0 or savings[name] <= 0:
            break
        taken = min(removable[name], -int(-excess // savings[name]))
        count, excess = count + taken, excess - taken * savings[name]
    return count
