"""Scores that say how much a network needs each of its channels; a family of criteria a file.

May import `gates`, `graph`, `selection`, `sigmoid_batchnorm` and what is below them.
"""

from pruning.criteria.averaging import ScoreAverage
from pruning.criteria.criterion import Batches, BatchLoss, Criterion, GateCriterion, Loss
from pruning.criteria.first_order import (
    FirstOrderCriterion,
    Fisher,
    Snip,
    Taylor,
    TaylorBatchNormScale,
    TaylorFullGradient,
    TaylorOutput,
    TaylorWeights,
    judged_together,
    score_together,
)
from pruning.criteria.gradient_moments import GradientMoments, GradientObserver
from pruning.criteria.magnitude import WeightMagnitude
from pruning.criteria.oracle import Oracle, Removal, combinatorial_oracle, greedy_order
from pruning.criteria.random_scores import Random
from pruning.criteria.scale import BatchNormScale, SigmoidScale
from pruning.criteria.second_order import Obd, SecondOrderCriterion, TaylorSecondOrder

__all__ = [
    "BatchLoss",
    "BatchNormScale",
    "Batches",
    "Criterion",
    "FirstOrderCriterion",
    "Fisher",
    "GateCriterion",
    "GradientMoments",
    "GradientObserver",
    "Loss",
    "Obd",
    "Oracle",
    "Random",
    "Removal",
    "ScoreAverage",
    "SecondOrderCriterion",
    "SigmoidScale",
    "Snip",
    "Taylor",
    "TaylorBatchNormScale",
    "TaylorFullGradient",
    "TaylorOutput",
    "TaylorSecondOrder",
    "TaylorWeights",
    "WeightMagnitude",
    "combinatorial_oracle",
    "greedy_order",
    "judged_together",
    "score_together",
]
