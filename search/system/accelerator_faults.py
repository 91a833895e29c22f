"""Errors of an accelerator: after some a process can compute nothing more on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pruning.errors import causes, first_line
from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    import torch
else:
    (torch,) = lazy_modules("torch")

_WORDS = re.compile(
    "(CUDA|HIP|NCCL) error|Triton Error|device-side assert|illegal memory access|uncorrectable ECC"
    "|unspecified launch failure|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
)


def poisoning(error: BaseException) -> str:
    """What an error says, in one line, if its process is of no more use; empty if it still is.

    After an illegal access, a failed assertion of a kernel or an uncorrectable error of memory
    "any further CUDA work will return the same error. To continue using CUDA, the process must be
    terminated and relaunched" (CUDA Runtime API, cudaError). Others may pass, but which cannot be
    relied on. Memory that runs out, torch.OutOfMemoryError, leaves a process as it was.
    """
    for cause in causes(error):
        if not isinstance(cause, RuntimeError) or isinstance(cause, torch.OutOfMemoryError):
            continue
        if isinstance(cause, torch.AcceleratorError) or _WORDS.search(str(cause)):
            lines = str(cause).splitlines()
            return next(filter(_WORDS.search, lines), first_line(cause)).strip()
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that an accelerator's memory is used up."""
    return any(isinstance(cause, torch.OutOfMemoryError) for cause in causes(error))
