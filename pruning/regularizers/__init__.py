"""Penalties that push unimportant channels towards zero: `loss + regularizer(model)`."""

from pruning.regularizers.regularizer import Regularizer
from pruning.regularizers.rni import RNI

__all__ = ["RNI", "Regularizer"]
