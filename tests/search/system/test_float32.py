"""Where products are exact, and that it ends there."""

from __future__ import annotations

import pytest
import torch

from search.system.float32 import exact_float32


def precisions() -> list[str]:
    cudnn = torch.backends.cudnn
    places = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    return [place.fp32_precision for place in places]


def test_products_are_exact_inside_and_as_before_outside():
    before = precisions()
    with exact_float32():
        assert precisions() == ["ieee"] * 3
    assert precisions() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_products_on_a_gpu_have_all_bits():
    source = torch.Generator().manual_seed(0)
    one, two = (torch.randn(256, 256, generator=source) for _ in range(2))
    with exact_float32():
        found = (one.cuda() @ two.cuda()).cpu()
    error = (found.double() - one.double() @ two.double()).abs().max()
    assert error < 1e-4  # of TF32 it is about 0.03
