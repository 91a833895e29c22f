"""Networks inside wrappers that spread or compile them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile, however nested.

    `model` itself if nothing is around it. Names of parameters and groups are always those of
    the network inside.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        else:
            inner = getattr(model, "_orig_mod", None)  # torch.compile's; slow to import
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside the block `model` and its parts run as they are written, call by call."""
    compiled = {
        module: module._compiled_call_impl
        for module in model.modules()
        if getattr(module, "_compiled_call_impl", None) is not None
    }
    is_loaded = "torch._dynamo" in sys.modules  # or nothing is compiled, and it is slow to import
    for module in compiled:
        module._compiled_call_impl = None
    try:
        with torch.compiler.set_stance("force_eager") if is_loaded else nullcontext():
            yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call
