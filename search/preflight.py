"""Preflight: is the budget reachable? Asked, and answered, before any compute is spent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from copycat.builder import Builder
from pruning.channel_graph import ChannelGraph
from pruning.cost import Budget, Cost, format_count
from pruning.criteria import SigmoidScale
from pruning.errors import CriterionError, ModelError, TraceError
from pruning.selection import unreachable
from pruning.sigmoid_batchnorm import to_sigmoid_batchnorm
from pruning.tracing import trace
from search.config import SearchConfig


@dataclass(frozen=True)
class Preflight:
    """What every trial of a search shares; it holds no weights and can be sent anywhere.

    groups: names of the channel groups that are scored and pruned.
    limits: the budget in absolute numbers.
    floor: the least cost that pruning can reach.
    """

    builder: Builder
    graph: ChannelGraph
    groups: tuple[str, ...]
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    budget: Budget
    limits: Budget
    base: Cost
    floor: Cost

    @property
    def example_input(self) -> torch.Tensor:
        """Zeros, 1×C×H×W."""
        return torch.zeros(1, *self.input_shape)

    @property
    def flops_limit(self) -> int:
        """FLOPs that a network may cost: the budget's bound, or the base network's cost."""
        limit = self.limits.limit("flops")
        return self.base.flops if limit is None else min(int(limit), self.base.flops)

    def describe(self) -> list[str]:
        """Base cost, reachable range and budget, a line each."""
        widest = max(len(name) for name in self.budget.QUANTITIES)
        lines = [
            f"base network  {_counts(self.base)}  (fvcore, eval mode; 1 multiply-add = 1 FLOP)",
            f"reachable     {_counts(self.floor)}  and more",
        ]
        for bound, limit in zip(self.budget.bounds, self.limits.bounds, strict=True):
            share = limit.value / getattr(self.base, bound.quantity)
            lines.append(
                f"budget        {bound.quantity:<{widest}} ≤ {format_count(limit.value)} "
                f"({100 * share:.3g} % of the base network)"
            )
        num_channels = sum(self.graph.group(name).width for name in self.groups)
        lines.append(f"prunable      {num_channels:,} channels in {len(self.groups)} groups")
        return lines


def check(
    config: SearchConfig,
    builder: Builder,
    input_shape: tuple[int, int, int],
    classes: tuple[str, ...],
) -> Preflight:
    """Trace the network and hold its reachable range against the budget.

    Raises UnreachableBudgetError naming the nearest reachable value, ModelError for a network
    that cannot run on these images or puts out another number of classes, CriterionError for
    one without batch normalisation along a prunable group.
    """
    model = builder()
    try:
        graph = trace(model, torch.zeros(1, *input_shape))
    except TraceError as error:
        raise ModelError(f"{config.model}: {error}") from error
    _check_output(config, model, input_shape, len(classes))
    groups = _scored_groups(config, model, graph)
    budget = Budget.parse(*config.budget)
    base = graph.cost()
    floor = graph.cost(graph.floor_widths(groups, config.min_channels))
    limits = budget.absolute(base)
    if not limits.allows(floor):
        raise unreachable(limits, floor)
    return Preflight(builder, graph, groups, input_shape, classes, budget, limits, base, floor)


def _scored_groups(config: SearchConfig, model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
    covered = SigmoidScale().covers(to_sigmoid_batchnorm(model), graph)
    groups = tuple(
        name for name in covered if config.prune_residual or not graph.group(name).residual
    )
    if not groups:
        residual = " besides residual streams (--prune-residual prunes those)" if covered else ""
        raise CriterionError(
            f"{config.model} has no prunable channels with batch normalisation{residual}: "
            "RNI needs them; choose a network with BatchNorm2d behind its convolutions"
        )
    return groups


def _check_output(
    config: SearchConfig, model: nn.Module, input_shape: tuple[int, int, int], num_classes: int
) -> None:
    model.eval()
    with torch.no_grad():
        output = model(torch.zeros(1, *input_shape))
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (1, num_classes):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"{config.model} must return logits of shape (batch, {num_classes}) in eval mode, "
            f"got {found} for one image"
        )


def _counts(cost: Cost) -> str:
    return f"{format_count(cost.flops)} FLOPs, {format_count(cost.params)} params"
