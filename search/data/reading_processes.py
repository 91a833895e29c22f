"""How many processes read samples ahead of training."""

from __future__ import annotations

import torch

_MOST_BY_DEFAULT = 8


def num_reading_processes(wanted: int | None, num_samples: int, *, pays_above: int) -> int:
    """As many as `wanted`; by default one for each core of the trial, none where none pays.

    A trial has as many cores as torch has threads in its process. None pays for at most
    `pays_above` samples, nor on a single core, which training needs itself.
    """
    if wanted is not None:
        return wanted
    cores = torch.get_num_threads()
    return min(_MOST_BY_DEFAULT, cores) if cores > 1 and num_samples > pays_above else 0
