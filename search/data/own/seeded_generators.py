"""The global generators that people's transforms draw from: Python's, numpy's and torch's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All three at `seed`, below 2³², inside, and as they were afterwards."""
    python, numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        set_seeds(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(of_torch)


def set_seeds(seed: int, position: int = 0) -> None:
    """Set all three by a seed and a position below 2³²; no two pairs are mixed into one alike."""
    mixed = int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.default_generator.manual_seed(mixed)
