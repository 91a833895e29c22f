"""What a network's channels are, which of them matter, and how to remove the others."""

from pruning import criteria, regularizers
from pruning.blocks import ResidualBlock, remove_blocks, residual_blocks
from pruning.channel_graph import ChannelGraph, ChannelGroup
from pruning.cost import Bound, Budget, Cost, measure_cost
from pruning.gates import ChannelGates, Gated, GateProbe
from pruning.scaling_factors import Decision, ScalingFactors
from pruning.schedule import FISHER_PACE, IterativePruner, Pace
from pruning.selection import KeepPlan, least_widths, removal_order, select, select_fraction
from pruning.sigmoid_batchnorm import SigmoidBatchNorm2d, fold, to_sigmoid_batchnorm
from pruning.structures import Structure, remove_structures, structures
from pruning.surgery import remove_channels
from pruning.tracing import trace

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
    "IterativePruner",
    "KeepPlan",
    "Pace",
    "ResidualBlock",
    "ScalingFactors",
    "SigmoidBatchNorm2d",
    "Structure",
    "criteria",
    "fold",
    "least_widths",
    "measure_cost",
    "regularizers",
    "removal_order",
    "remove_blocks",
    "remove_channels",
    "remove_structures",
    "residual_blocks",
    "select",
    "select_fraction",
    "structures",
    "to_sigmoid_batchnorm",
    "trace",
]
