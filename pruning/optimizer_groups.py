"""Parameter groups of an optimizer, by which σBN scales and gates learn faster and do not decay."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pruning.scaling_factors.scaling_factors import ScalingFactors
from pruning.sigmoid_batchnorm import SigmoidBatchNorm

SCALE_LEARNS_FASTER = 10
"""σBN scales learn with ten times the learning rate (RNI, "Receding Neuron Importances for
Structured Pruning", §5.1); so do gates that are sigmoids as well, but not clipped ones."""


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    linear_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """For torch.optim: all parameters with these settings; those of σBN scales and gates apart.

    linear_weight_decay: of the weights of linear layers, where it is another one.

    The latter learn without weight decay and, but for gates that are clipped to [0, 1], ten times
    faster. lr_factor: what the learning rate of each group is multiplied by, for schedules that
    set it. is_scale: whether a group is of scales or gates. Without such parameters there is one
    group.
    """
    scales: list[Tensor] = []
    clipped: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SigmoidBatchNorm):
            scales.append(module.weight)
        elif isinstance(module, ScalingFactors):
            (clipped if module.gating.form == "clipped" else scales).extend(module.learned)
    known = {id(scale) for scale in (*scales, *clipped)}
    linear: list[Tensor] = []
    if linear_weight_decay is not None:
        linear += [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    known |= {id(weight) for weight in linear}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {
            "params": params,
            "lr": lr * factor,
            "lr_factor": factor,
            "weight_decay": decay,
            "is_scale": params is scales or params is clipped,
        }
        for params, factor, decay in (
            (others, 1, weight_decay),
            (linear, 1, linear_weight_decay),
            (scales, SCALE_LEARNS_FASTER, 0.0),
            (clipped, 1, 0.0),
        )
    ]
    return [group for group in groups if group["params"]]
