"""Which parameters learn how."""

from __future__ import annotations

import torch
from networks import chain, conv
from torch import nn

from pruning import Gating, ScalingFactors, parameter_groups, to_sigmoid_batchnorm


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


def test_clipped_gates_learn_at_the_plain_rate_without_decay() -> None:
    model = chain(first=conv(3, 4), relu=nn.ReLU(), last=conv(4, 2), out=nn.Flatten())
    factors = ScalingFactors(model, torch.zeros(1, 3, 4, 4), ["filter"], gating=Gating("clipped"))
    groups = parameter_groups(factors, lr=0.1, weight_decay=1e-4)
    assert [(g["lr_factor"], g["weight_decay"], g["is_scale"]) for g in groups] == [
        (1, 1e-4, False),
        (1, 0.0, True),
    ]
    assert {*groups[1]["params"]} == {*factors.learned}


def test_linear_layers_may_have_a_decay_of_their_own() -> None:
    model = chain(first=conv(3, 4), flat=nn.Flatten(), last=nn.Linear(4, 2))
    plain, linear = parameter_groups(model, lr=0.1, weight_decay=1e-4, linear_weight_decay=0.1)
    assert (plain["weight_decay"], linear["weight_decay"]) == (1e-4, 0.1)
    assert linear["params"] == [model.get_submodule("last").weight]
    assert len(plain["params"]) == 3


def test_without_scales_there_is_one_group() -> None:
    layer = conv(3, 4)
    (group,) = parameter_groups(layer, lr=0.1, weight_decay=0.0)
    assert group["lr"] == 0.1
    assert {*group["params"]} == {*layer.parameters()}
