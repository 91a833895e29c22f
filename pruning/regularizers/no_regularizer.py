"""No penalty: what pruning by uniform channel scaling trains with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.regularizers.regularizer import Regularizer


class NoRegularizer(Regularizer):
    """0, for any model; its gradient with respect to every parameter is none.

    Uniform channel scaling, the baseline that removes the same share of every layer, trains
    without sparsity (Suteu and Guo, "Receding Neuron Importances for Structured Pruning", §5.1).
    """

    def __call__(self, model: nn.Module) -> Tensor:
        like = next(model.parameters(), torch.empty(0))
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.zeros((), dtype=dtype, device=like.device, requires_grad=True)
