"""The memory of an accelerator that this process may take."""

from __future__ import annotations

import torch

_CONTEXT_BYTES = 1 << 29
"""Of a process on a GPU beside its tensors, about: CUDA's own, which no limit counts."""


def limit_device_memory(device: torch.device, share: float) -> None:
    """Let the tensors of this process take at most its share, 0 to 1, of a GPU.

    What CUDA itself takes of the share is left out. Allocations beyond it fail.
    """
    if device.type != "cuda" or not 0 < share < 1:
        return
    index = _index(device)
    _, total = torch.cuda.mem_get_info(index)
    fraction = max(share / 2, share - _CONTEXT_BYTES / total)
    torch.cuda.set_per_process_memory_fraction(fraction, index)


def free_device_memory(device: torch.device) -> float:
    """Bytes that tensors of this process can still take there; infinite where nobody counts."""
    if device.type != "cuda":
        return float("inf")
    index = _index(device)
    free, total = torch.cuda.mem_get_info(index)
    allocated = torch.cuda.memory_allocated(index)
    unused = torch.cuda.memory_reserved(index) - allocated
    limit = torch.cuda.get_per_process_memory_fraction(index) * total
    return min(free + unused, limit - allocated)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
