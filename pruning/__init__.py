"""What a network's channels are, which of them matter, and how to remove the others."""

from pruning import criteria, regularizers
from pruning.blocks import ResidualBlock, remove_blocks, residual_blocks
from pruning.channel_graph import ChannelGraph, ChannelGroup
from pruning.cost import Bound, Budget, Cost, measure_cost
from pruning.selection import KeepPlan, select
from pruning.sigmoid_batchnorm import SigmoidBatchNorm2d, fold, to_sigmoid_batchnorm
from pruning.surgery import remove_channels
from pruning.tracing import trace

__all__ = [
    "Bound",
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "KeepPlan",
    "ResidualBlock",
    "SigmoidBatchNorm2d",
    "criteria",
    "fold",
    "measure_cost",
    "regularizers",
    "remove_blocks",
    "remove_channels",
    "residual_blocks",
    "select",
    "to_sigmoid_batchnorm",
    "trace",
]
