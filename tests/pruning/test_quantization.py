"""Networks prepared for quantisation-aware training."""

from __future__ import annotations

import pytest
import torch
from gating import difference, random_plan
from networks import chain, conv, randomised
from torch import nn
from torch.ao import quantization

from pruning import KeepPlan, remove_channels, trace
from pruning.gates.channel_gates import ChannelGates

EXAMPLE = torch.zeros(1, 3, 8, 8)
RANGED = "quantised by the range of all of these channels"

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao announces its end in many ways


def configurations() -> dict[str, quantization.QConfig]:
    """Observers inside the fake quantisation or before it; weights per channel or as a whole."""
    by_tensor = quantization.FakeQuantize.with_args(
        observer=quantization.MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        dtype=torch.quint8,
    )
    by_channel = quantization.FakeQuantize.with_args(
        observer=quantization.MovingAveragePerChannelMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    return {
        "fused, per channel": quantization.get_default_qat_qconfig("fbgemm"),
        "fused, per tensor": quantization.get_default_qat_qconfig("qnnpack"),
        "apart, per channel": quantization.QConfig(activation=by_tensor, weight=by_channel),
        "apart, per tensor": quantization.QConfig(activation=by_tensor, weight=by_tensor),
    }


def prepared(configuration: str, *, has_run: bool) -> nn.Module:
    """Convolutions, one of them with its batch norm and ReLU in one layer, and a linear layer."""
    model = chain(
        enter=quantization.QuantStub(),
        conv1=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        conv2=conv(8, 6),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 4),
        leave=quantization.DeQuantStub(),
    )
    randomised(model)
    model.qconfig = configurations()[configuration]
    fused = quantization.fuse_modules_qat(model.train(), [["conv1", "norm", "relu"]])
    result: nn.Module = quantization.prepare_qat(fused)
    if has_run:
        result(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    return result


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("configuration", configurations())
def test_observed_ranges_are_those_of_all_channels(configuration: str, has_run: bool) -> None:
    model = prepared(configuration, has_run=has_run)
    expected = {"conv1": 8, "conv2": 6, "fc1": 5, "fc2": 4}
    exact = trace(model, EXAMPLE)
    assert exact.widths == expected
    reason = RANGED if configuration.startswith("fused") else "reduced over all channels"
    assert {group.pinned for group in exact.groups} == {reason}
    graph = trace(model, EXAMPLE, exact=False)
    assert [group.name for group in graph.prunable] == ["conv1", "conv2", "fc1"]
    assert {group.inexact for group in graph.prunable} == {reason}
    smaller = remove_channels(model, graph, KeepPlan({"conv1": (0, 3, 4), "fc1": (1, 2)}))
    images = torch.randn(2, 3, 8, 8)
    assert smaller.train()(images).shape == (2, 4)
    assert smaller.eval()(images).shape == (2, 4)


@pytest.mark.parametrize("configuration", configurations())
def test_without_observers_a_removed_channel_is_zero(configuration: str) -> None:
    model = prepared(configuration, has_run=True).apply(quantization.disable_observer)
    graph = trace(model, EXAMPLE, exact=False)
    gates = ChannelGates(model, graph)
    for seed in range(3):
        plan = random_plan(graph, seed)
        smaller = remove_channels(model, graph, plan)
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        for training in (False, True):
            with gates.multiplying(gates.mask(plan)):
                expected = model.train(training)(images)
            assert difference(smaller.train(training)(images), expected) < 1e-5


@pytest.mark.parametrize("configuration", ["apart, per channel", "apart, per tensor"])
def test_observers_that_are_seen_to_rest_leave_removal_exact(configuration: str) -> None:
    model = prepared(configuration, has_run=True).apply(quantization.disable_observer)
    graph = trace(model, EXAMPLE)
    assert [group.name for group in graph.prunable] == ["conv1", "conv2", "fc1"]
