"""Which number format a network is trained in."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from pruning.cost import ExampleInput

_BF16_PAYS_FROM_PIXELS = 16 * 16


def training_precision(device: torch.device, example_input: ExampleInput) -> torch.dtype:
    """The number format of autocast regions: bfloat16 where the hardware gains, else float32.

    CUDA: where bfloat16 is native. CPU: only with AMX and images of at least 16×16 pixels.
    Measured on a Xeon with AMX, batch 64: ResNet-20 at 32×32 trains 1.8 times as fast, narrowed
    networks 1.3 to 1.6 times, but 8×8 digits only 1.1 times. Processors that have instructions
    for bfloat16 but no AMX lose: held to AVX512_CORE_BF16, the same Xeon trains ResNet-56 at 0.7
    and VGG-16 at 0.75 times the speed of float32. Decided from what the device is, never by timing.
    example_input: of one sample; only a tensor of images, (1, C, H, W), has pixels.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    large = (
        isinstance(example_input, Tensor)
        and example_input.ndim == 4
        and math.prod(example_input.shape[2:]) >= _BF16_PAYS_FROM_PIXELS
    )
    if device.type == "cpu" and large and _has_amx():
        return torch.bfloat16
    return torch.float32


def _has_amx() -> bool:
    """Whether the processor has AMX for bfloat16 and oneDNN is not told to do without."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # absent from older torch
    if capabilities is None or not capabilities().get("amx_bf16", False):
        return False
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return most in ("", "ALL", "DEFAULT") or "AMX" in most
