"""One training of one network: the optimizer, distillation, checkpoints.

May import `tasks` and what is below them; knows nothing of searches.
"""
