"""Errors of an accelerator: which of them end a process."""

from __future__ import annotations

import pytest
import torch

from pruning.errors import CriterionError, ModelError
from search.system.accelerator_faults import is_out_of_memory, poisoning
from search.trials.trial import ending_of

ASSERT = """CUDA error: device-side assert triggered
Search for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/ for more information.
CUDA kernel errors might be asynchronously reported at some other API call."""

OUT_OF_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"
)


def behind(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.AcceleratorError(ASSERT), "CUDA error: device-side assert triggered"),
        (torch.AcceleratorError("a fault of no name"), "a fault of no name"),
        (RuntimeError(ASSERT), "CUDA error: device-side assert triggered"),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered"),
            "CUDA error: uncorrectable ECC error encountered",
        ),
        (
            RuntimeError("Caught RuntimeError in pin memory thread.\nTraceback:\n  x\n" + ASSERT),
            "CUDA error: device-side assert triggered",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        ),
        (
            behind(CriterionError("it cannot score"), torch.AcceleratorError(ASSERT)),
            "CUDA error: device-side assert triggered",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), ""),
        (RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"), ""),
        (ValueError("CUDA error: of a text"), ""),
        (ModelError("it fails"), ""),
        (OUT_OF_MEMORY, ""),
        (behind(ModelError("it fails"), OUT_OF_MEMORY), ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_leaves_an_accelerator_unusable(error: Exception, words: str) -> None:
    assert poisoning(error) == words


def test_memory_that_is_used_up_ends_its_job_with_a_hint() -> None:
    for error in (OUT_OF_MEMORY, behind(ModelError("it fails"), OUT_OF_MEMORY)):
        assert is_out_of_memory(error)
        ending = ending_of(error)
        assert (ending.state, ending.is_final) == ("failed", False)
        assert ending.reason.endswith(
            "(lower --batch-size, or let fewer trials share a GPU: --gpus-per-trial)"
        )
    assert "--batch-size" not in ending_of(RuntimeError("out of luck")).reason
