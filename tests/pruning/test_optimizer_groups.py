"""Which parameters learn how."""

from __future__ import annotations

import torch
from networks import chain, conv
from torch import nn

from pruning import parameter_groups, to_sigmoid_batchnorm


def test_scales_learn_faster_and_do_not_decay() -> None:
    """RNI, §5.1; and every parameter is in one group."""
    model = to_sigmoid_batchnorm(
        chain(first=conv(3, 4), norm=nn.BatchNorm2d(4), last=conv(4, 2)), seed=0
    )
    groups = parameter_groups(model, lr=0.1, weight_decay=1e-4)
    settings = [(g["lr"], g["lr_factor"], g["weight_decay"]) for g in groups]
    assert settings == [(0.1, 1, 1e-4), (1.0, 10, 0.0)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    (scale,) = groups[1]["params"]
    assert scale is model.get_submodule("norm").weight
    optimizer = torch.optim.SGD(groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]


def test_without_scales_there_is_one_group() -> None:
    layer = conv(3, 4)
    (group,) = parameter_groups(layer, lr=0.1, weight_decay=0.0)
    assert group["lr"] == 0.1
    assert {*group["params"]} == {*layer.parameters()}
