"""What a network's channels are, which of them matter, and how to remove the others.

Names are imported when they are first looked up: who wants a budget or an error, such as the
service, need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning import criteria, regularizers
    from pruning.cost import Bound, Budget, Cost
    from pruning.fvcore_count import measure_cost
    from pruning.gates.channel_gates import ChannelGates, Gated, GateProbe
    from pruning.gates.placement import Placement
    from pruning.graph.channel_graph import ChannelGraph, ChannelGroup
    from pruning.iterative import (
        FISHER_PACE,
        IterativePruner,
        Pace,
        Removable,
        TrajectoryPoint,
    )
    from pruning.one_shot import prune
    from pruning.optimizer_groups import parameter_groups
    from pruning.optimizer_state import carry_over
    from pruning.restrictions import Restrictions
    from pruning.rules import Rules
    from pruning.scaling_factors.gating import Gating
    from pruning.scaling_factors.scaling_factors import Decision, ScalingFactors
    from pruning.selection import KeepPlan, least_widths, removal_order, select
    from pruning.sigmoid_batchnorm import (
        SigmoidBatchNorm1d,
        SigmoidBatchNorm2d,
        SigmoidBatchNorm3d,
        fold,
        to_sigmoid_batchnorm,
    )
    from pruning.structure_removal.residual_blocks import (
        ResidualBlock,
        residual_blocks,
    )
    from pruning.structure_removal.structures import Structure, remove_structures, structures
    from pruning.surgery import remove_channels
    from pruning.tracing import trace

_HOMES = {
    "Bound": "pruning.cost",
    "Budget": "pruning.cost",
    "ChannelGates": "pruning.gates.channel_gates",
    "ChannelGraph": "pruning.graph.channel_graph",
    "ChannelGroup": "pruning.graph.channel_graph",
    "Cost": "pruning.cost",
    "Decision": "pruning.scaling_factors.scaling_factors",
    "FISHER_PACE": "pruning.iterative",
    "GateProbe": "pruning.gates.channel_gates",
    "Gating": "pruning.scaling_factors.gating",
    "Gated": "pruning.gates.channel_gates",
    "IterativePruner": "pruning.iterative",
    "KeepPlan": "pruning.selection",
    "Pace": "pruning.iterative",
    "Placement": "pruning.gates.placement",
    "Removable": "pruning.iterative",
    "Restrictions": "pruning.restrictions",
    "Rules": "pruning.rules",
    "ResidualBlock": "pruning.structure_removal.residual_blocks",
    "ScalingFactors": "pruning.scaling_factors.scaling_factors",
    "SigmoidBatchNorm1d": "pruning.sigmoid_batchnorm",
    "SigmoidBatchNorm2d": "pruning.sigmoid_batchnorm",
    "SigmoidBatchNorm3d": "pruning.sigmoid_batchnorm",
    "Structure": "pruning.structure_removal.structures",
    "TrajectoryPoint": "pruning.iterative",
    "carry_over": "pruning.optimizer_state",
    "fold": "pruning.sigmoid_batchnorm",
    "least_widths": "pruning.selection",
    "measure_cost": "pruning.fvcore_count",
    "removal_order": "pruning.selection",
    "parameter_groups": "pruning.optimizer_groups",
    "prune": "pruning.one_shot",
    "remove_channels": "pruning.surgery",
    "remove_structures": "pruning.structure_removal.structures",
    "residual_blocks": "pruning.structure_removal.residual_blocks",
    "select": "pruning.selection",
    "structures": "pruning.structure_removal.structures",
    "to_sigmoid_batchnorm": "pruning.sigmoid_batchnorm",
    "trace": "pruning.tracing",
}
_PACKAGES = ("criteria", "regularizers")

__all__ = [
    "FISHER_PACE",
    "Bound",
    "Budget",
    "ChannelGates",
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "Decision",
    "GateProbe",
    "Gated",
    "Gating",
    "IterativePruner",
    "KeepPlan",
    "Pace",
    "Placement",
    "Removable",
    "ResidualBlock",
    "Restrictions",
    "Rules",
    "ScalingFactors",
    "SigmoidBatchNorm1d",
    "SigmoidBatchNorm2d",
    "SigmoidBatchNorm3d",
    "Structure",
    "TrajectoryPoint",
    "carry_over",
    "criteria",
    "fold",
    "least_widths",
    "measure_cost",
    "parameter_groups",
    "prune",
    "regularizers",
    "removal_order",
    "remove_channels",
    "remove_structures",
    "residual_blocks",
    "select",
    "structures",
    "to_sigmoid_batchnorm",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"pruning.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
