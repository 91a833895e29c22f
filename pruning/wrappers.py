"""Networks inside wrappers that spread or compile them."""

from __future__ import annotations

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
            inner = model._modules.get("_orig_mod")  # torch.compile's; its class is slow to import
        if not isinstance(inner, nn.Module):
            return model
        model = inner
