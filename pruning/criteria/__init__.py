"""Scores that say how much a network needs each of its channels."""

from pruning.criteria.averaging import ScoreAverage
from pruning.criteria.batchnorm_scale import BatchNormScale
from pruning.criteria.criterion import Batches, Criterion, Loss
from pruning.criteria.first_order import FirstOrderCriterion, score_together
from pruning.criteria.fisher import Fisher
from pruning.criteria.gradient_moments import GradientMoments, GradientObserver
from pruning.criteria.magnitude import WeightMagnitude
from pruning.criteria.obd import Obd
from pruning.criteria.oracle import Oracle, Removal, combinatorial_oracle, greedy_order
from pruning.criteria.random_scores import Random
from pruning.criteria.second_order import SecondOrderCriterion
from pruning.criteria.sigmoid_scale import SigmoidScale
from pruning.criteria.snip import Snip
from pruning.criteria.taylor import Taylor
from pruning.criteria.taylor_full_gradient import TaylorFullGradient
from pruning.criteria.taylor_second_order import TaylorSecondOrder
from pruning.criteria.taylor_weights import TaylorWeights

__all__ = [
    "BatchNormScale",
    "Batches",
    "Criterion",
    "FirstOrderCriterion",
    "Fisher",
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
    "TaylorFullGradient",
    "TaylorSecondOrder",
    "TaylorWeights",
    "WeightMagnitude",
    "combinatorial_oracle",
    "greedy_order",
    "score_together",
]
