"""Penalties that push unimportant channels towards zero: `loss + regularizer(model)`.

`penalties` is the mathematics, `scope` where the numbers are read, `regularizer` every class.
May import `graph`, `networks`, `sigmoid_batchnorm` and `errors`.
"""

from pruning.regularizers.regularizer import (
    RNI,
    DeepHoyer,
    GroupDeepHoyer,
    Polarization,
    Regularizer,
    Slimming,
)

__all__ = ["RNI", "DeepHoyer", "GroupDeepHoyer", "Polarization", "Regularizer", "Slimming"]
