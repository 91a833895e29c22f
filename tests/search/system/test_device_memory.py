"""What a process may take of a GPU, where a stand-in tells of one."""

from __future__ import annotations

import pytest
import torch

from search.system.device_memory import free_device_memory, limit_device_memory

GPU, GB = torch.device("cuda"), 2**30


class Gpu:
    """Stands in for what torch.cuda tells of a GPU of 16 GiB, of which others have 6."""

    fraction = 1.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: float, own: float) -> None:
        answers = {
            "current_device": lambda: 3,
            "mem_get_info": lambda _: (int(free * GB), 16 * GB),
            "memory_allocated": lambda _: int(own * GB),
            "memory_reserved": lambda _: int((own + 0.25) * GB),
            "get_per_process_memory_fraction": lambda _: self.fraction,
            "set_per_process_memory_fraction": self.limit,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def limit(self, fraction: float, index: int) -> None:
        assert index == 3
        self.fraction = fraction


def test_each_process_may_take_its_share_without_what_cuda_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch, free=10, own=1)
    limit_device_memory(GPU, 0.25)
    assert gpu.fraction == 0.25 - 0.5 / 16
    assert free_device_memory(GPU) == (4 - 0.5 - 1) * GB
    limit_device_memory(GPU, 1 / 64)  # where CUDA would take all of it
    assert gpu.fraction == 1 / 128


@pytest.mark.parametrize("share", [0.0, 1.0, 2.0])
def test_whoever_has_all_of_a_gpu_has_no_limit(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    gpu = Gpu(monkeypatch, free=10, own=1)
    limit_device_memory(GPU, share)
    assert gpu.fraction == 1.0
    assert free_device_memory(GPU) == 10.25 * GB  # what torch keeps is free to its own tensors


def test_elsewhere_nobody_counts() -> None:
    limit_device_memory(torch.device("cpu"), 0.25)
    assert free_device_memory(torch.device("cpu")) == float("inf")
