"""What float32 means on a GPU: all of its 24 bits, or TF32's 11 in products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """While this is open, products of float32 are float32's on CUDA too, and not TF32's.

    torch's own default is TF32 in convolutions and float32 in matrix products. Training gains
    nothing by TF32 where it runs in bfloat16; scores are promised in float32, and are then the
    same on a GPU that has no TF32. What was set before is set again.
    """
    cudnn: Any = torch.backends.cudnn  # whose parts are made when it is imported
    places = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
