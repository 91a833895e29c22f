"""One-shot pruning in one call: trace, judge, select, remove."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from typing import TypedDict, Unpack

from torch import nn

from pruning.cost import Budget, ExampleInput
from pruning.criteria.criterion import Batches, Criterion
from pruning.criteria.magnitude import WeightMagnitude
from pruning.errors import ConfigError
from pruning.networks.wrappers import unwrapped
from pruning.selection import Scope, select
from pruning.surgery import remove_channels
from pruning.tracing import trace


class SelectionRules(TypedDict, total=False):
    """What may be removed, in what steps; see `pruning.select`."""

    min_channels: int
    divisor: int
    scope: Scope
    residual: bool
    cost_exponent: float


def prune(
    model: nn.Module,
    example_input: ExampleInput,
    target: str | Budget,
    *,
    criterion: Criterion | None = None,
    batches: Batches = (),
    ignore: Iterable[str | nn.Module] = (),
    max_removed: Mapping[str, float] | None = None,
    only: Iterable[str] = (),
    exact: bool = True,
    whole_heads: bool = False,
    **rules: Unpack[SelectionRules],
) -> nn.Module:
    """A smaller network that meets the target; `model` is left as it was.

    example_input: as for `trace`: N×… with N = 1, a tuple of arguments or a mapping.
    target: a budget, as text such as "flops=50%", "channels=50%" or "flops=30M params=300k", whose
        shares refer to `model`.
    criterion: judges the channels; by default WeightMagnitude(2), which needs no data.
    batches: minibatches for criteria that need data: pairs of inputs, as the network is called
        with, and targets, as the criterion's loss takes them.
    ignore: layers, or patterns of their names such as "layer4.*" or "*.downsample.*": what they
        produce, read, or otherwise hold a parameter along keeps all its channels.
    max_removed: of layers by such patterns the largest share that goes of what they produce:
        {"layer3.*": 0.5}.
    only: patterns of the layers that alone lose channels: ["*.conv1"].
    exact, whole_heads: as for `trace`.
    rules: min_channels, divisor, scope, residual and cost_exponent, as for `select`.

    The result is to be fine-tuned; `carry_over` lets an optimizer go on where removal happens in
    the middle of a training. Raises TraceError, CriterionError, and ConfigError for a pattern that
    fits no layer; UnreachableBudgetError names the nearest target that can be reached.
    """
    model = unwrapped(model)
    judge = WeightMagnitude(2) if criterion is None else Criterion.checked(criterion)
    graph = trace(model, example_input, exact=exact, whole_heads=whole_heads)
    patterns = [_pattern(model, wanted) for wanted in ignore]
    scores = judge.score(model, graph, batches)
    budget = Budget.parse(*target.split()) if isinstance(target, str) else target
    plan = select(
        scores, graph, budget, ignore=patterns, max_removed=max_removed, only=only, **rules
    )
    return remove_channels(model, graph, plan)


def _pattern(model: nn.Module, wanted: str | nn.Module) -> str:
    """The pattern that is meant; of a module the one that fits its name alone."""
    if isinstance(wanted, str):
        return wanted
    for name, module in model.named_modules():
        if module is wanted and name:
            return str(glob.escape(name))
    raise ConfigError(
        f"ignore names a {type(wanted).__name__}, which is no layer of the network", field="ignore"
    )
