"""One-shot pruning in one call: trace, judge, select, remove."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TypedDict, Unpack

from torch import nn

from pruning.cost import Budget, ExampleInput
from pruning.criteria.criterion import Batches, Criterion
from pruning.criteria.magnitude import WeightMagnitude
from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.wrappers import unwrapped
from pruning.selection import FilterShare, Scope, select
from pruning.surgery import remove_channels
from pruning.tracing import trace


class SelectionRules(TypedDict, total=False):
    """What may be removed, in what steps; see `pruning.select`."""

    min_channels: int
    divisor: int
    scope: Scope
    residual: bool


def prune(
    model: nn.Module,
    example_input: ExampleInput,
    target: str | Budget | FilterShare,
    *,
    criterion: Criterion | None = None,
    batches: Batches = (),
    ignore: Iterable[str | nn.Module] = (),
    exact: bool = True,
    **rules: Unpack[SelectionRules],
) -> nn.Module:
    """A smaller network that meets the target; `model` is left as it was.

    example_input: as for `trace`: N×… with N = 1, a tuple of arguments or a mapping.
    target: a budget, as text such as "flops=50%" or "flops=30M params=300k", whose shares refer to
        `model`; or a share of the filters.
    criterion: judges the channels; by default WeightMagnitude(2), which needs no data.
    batches: minibatches for criteria that need data: pairs of inputs and targets.
    ignore: layers, or patterns of their names such as "layer4.*" or "*.downsample.*": what they
        produce, or hold a parameter along, keeps all its channels.
    exact: as for `trace`.  rules: min_channels, divisor, scope and residual, as for `select`.

    The result is to be fine-tuned; `carry_over` lets an optimizer go on where removal happens in
    the middle of a training. Raises TraceError, CriterionError, and ConfigError for a pattern that
    fits no layer; UnreachableBudgetError names the nearest target that can be reached.
    """
    model = unwrapped(model)
    graph = trace(model, example_input, exact=exact)
    whole = set(_groups_of(graph, _names(model, ignore)))
    scores = (criterion or WeightMagnitude(2)).score(model, graph, batches)
    plan = select(
        {name: values for name, values in scores.items() if name not in whole},
        graph,
        Budget.parse(*target.split()) if isinstance(target, str) else target,
        **rules,
    )
    return remove_channels(model, graph, plan)


def _names(model: nn.Module, ignore: Iterable[str | nn.Module]) -> Iterator[str]:
    """The names of the layers that are meant, and of all inside them."""
    names = {name: module for name, module in model.named_modules() if name}
    for wanted in ignore:
        if isinstance(wanted, nn.Module):
            matches = [name for name, module in names.items() if module is wanted]
            words = f"a {type(wanted).__name__}"
        else:
            matches = [name for name in names if fnmatchcase(name, wanted)]
            words = repr(wanted)
        if not matches:
            close = difflib.get_close_matches(str(wanted), names, n=3)
            hint = f": did you mean {', '.join(close)}?" if close else ""
            raise ConfigError(f"ignore names {words}, which is no layer of the network{hint}")
        for name in matches:
            yield from (other for other in names if f"{other}.".startswith(f"{name}."))


def _groups_of(graph: ChannelGraph, names: Iterable[str]) -> Iterator[str]:
    """The groups whose channels these layers produce or hold a parameter along."""
    ignored = set(names)
    for group in graph.groups:
        if not ignored.isdisjoint((*group.producers, *group.layers)):
            yield group.name
