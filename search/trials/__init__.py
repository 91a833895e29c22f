"""One unit of scheduled work in plain torch: train sparsely, prune, fine-tune, store.

May import `training` and what is below it; no Ray, no Optuna study.
"""
