"""Penalties that push unimportant channels towards zero: `loss + regularizer(model)`."""

from pruning.regularizers.deep_hoyer import DeepHoyer
from pruning.regularizers.group_deep_hoyer import GroupDeepHoyer
from pruning.regularizers.no_regularizer import NoRegularizer
from pruning.regularizers.polarization import Polarization
from pruning.regularizers.regularizer import Regularizer
from pruning.regularizers.rni import RNI
from pruning.regularizers.slimming import Slimming

__all__ = [
    "RNI",
    "DeepHoyer",
    "GroupDeepHoyer",
    "NoRegularizer",
    "Polarization",
    "Regularizer",
    "Slimming",
]
