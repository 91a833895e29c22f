"""Scores that say how much a network needs each of its channels."""

from pruning.criteria.criterion import Batches, Criterion
from pruning.criteria.scale import SigmoidScale

__all__ = ["Batches", "Criterion", "SigmoidScale"]
