"""One training of one network: minibatches, the optimizer, distillation, checkpoints.

May import `data`, `models` and what is below them; knows nothing of searches.
"""
