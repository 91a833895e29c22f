"""Python looks for no garbage in cycles while a network is followed."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from networks import conv, head
from torch import Tensor, nn

from pruning import trace
from pruning.networks.garbage_collection import collection_paused


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_afterwards_as_before(*, enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    with pytest.raises(KeyError), collection_paused():
        raise KeyError
    assert gc.isenabled() == enabled


def test_no_run_of_a_trace_is_interrupted() -> None:
    seen: list[bool] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(gc.isenabled())
            return x

    model = nn.Sequential(conv(3, 6), Watching(), head(6))
    trace(model, torch.zeros(1, 3, 8, 8))
    assert len(seen) >= 5
    assert not any(seen)
    assert gc.isenabled()
