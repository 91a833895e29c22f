"""Scales as scores: per channel, the mean over the layers that scale it."""

from __future__ import annotations

import pytest
import torch
from architectures import BY_NAME
from networks import Branches, chain, conv, head, randomised
from torch import nn

from pruning import Budget, fold, remove_channels, select, to_sigmoid_batchnorm, trace
from pruning.criteria import BatchNormScale, SigmoidScale
from pruning.errors import CriterionError

IMAGE = torch.zeros(1, 3, 8, 8)


def test_one_layer_per_group() -> None:
    model = randomised(to_sigmoid_batchnorm(BY_NAME["chain"].make()), seed=1)
    graph = trace(model, IMAGE)
    criterion = SigmoidScale()
    assert criterion.covers(model, graph) == ("conv1", "conv2")
    scores = criterion.score(model, graph)
    assert torch.allclose(scores["conv1"], model.bn1.weight.detach().sigmoid())
    assert torch.allclose(scores["conv2"], model.bn2.weight.detach().sigmoid())


def test_a_residual_stream_is_scored_by_the_mean_of_its_layers() -> None:
    model = randomised(
        to_sigmoid_batchnorm(
            Branches(
                lambda net, x: net.head((y := net.bn0(net.stem(x))) + net.bn1(net.conv(y))),
                stem=conv(3, 6),
                bn0=nn.BatchNorm2d(6),
                conv=conv(6, 6),
                bn1=nn.BatchNorm2d(6),
                head=head(6),
            )
        )
    )
    scores = SigmoidScale().score(model, trace(model, IMAGE))
    mean = (model.bn0.weight.sigmoid() + model.bn1.weight.sigmoid()).detach() / 2
    assert list(scores) == ["stem"]
    assert torch.allclose(scores["stem"], mean)


def test_a_normalisation_of_concatenated_channels_scores_each_group_by_its_part() -> None:
    model = randomised(to_sigmoid_batchnorm(BY_NAME["dense block"].make()), seed=2)
    scores = SigmoidScale().score(model, trace(model, IMAGE))
    first, second = (layer.weight.detach().sigmoid() for layer in (model.bn1, model.bn2))
    assert list(scores) == ["stem", "grow1"]
    assert torch.allclose(scores["stem"], (first + second[:5]) / 2)
    assert torch.allclose(scores["grow1"], second[5:])


def test_the_channels_of_a_unit_share_their_score() -> None:
    model = randomised(
        to_sigmoid_batchnorm(
            chain(
                first=conv(3, 8), bn=nn.BatchNorm2d(8), grouped=conv(8, 12, groups=2), head=head(12)
            )
        )
    )
    scores = SigmoidScale().score(model, trace(model, IMAGE))
    importance = model.bn.weight.detach().sigmoid()
    assert torch.allclose(scores["first"], importance.reshape(2, 4).mean(0).repeat(2))


def test_scores_follow_a_trace_of_the_stock_network() -> None:
    """Names stay the same, so the graph may come from before the conversion."""
    stock = BY_NAME["chain"].make()
    graph = trace(stock, IMAGE)
    model = to_sigmoid_batchnorm(stock)
    plan = select(SigmoidScale().score(model, graph), graph, Budget.parse("flops=60%"))
    smaller = remove_channels(model, graph, plan)
    kept = list(plan.keep["conv1"])
    assert torch.equal(smaller.bn1.importance, model.bn1.importance[kept])


def test_a_network_without_sigmoid_batch_norms_is_refused() -> None:
    model = BY_NAME["chain"].make()
    graph = trace(model, IMAGE)
    assert SigmoidScale().covers(model, graph) == ()
    with pytest.raises(CriterionError, match="Sequential has no sigmoid batch normalisation"):
        SigmoidScale().score(model, graph)


def test_the_absolute_scale_of_batch_norms() -> None:
    model = BY_NAME["chain"].network(1)
    graph = trace(model, IMAGE)
    model.bn1.weight.data[2] = -3.0
    scores = BatchNormScale().score(model, graph)
    assert torch.equal(scores["conv1"], model.bn1.weight.detach().abs())
    assert scores["conv1"][2] == 3
    assert torch.equal(scores["conv2"], model.bn2.weight.detach().abs())


def test_a_batch_norm_of_one_dimension_has_a_scale_and_one_without_parameters_has_none() -> None:
    for name, expected in (("one dimension", ("first",)), ("layer scale", ())):
        model, graph = BY_NAME[name].network(), BY_NAME[name].graph
        assert BatchNormScale().covers(model, graph) == expected
    model = BY_NAME["batch normalisation of every kind"].network()
    assert BatchNormScale().covers(model, trace(model, IMAGE)) == ("second",)


def test_a_network_and_its_fold_score_alike() -> None:
    model = randomised(to_sigmoid_batchnorm(BY_NAME["chain"].make()), seed=1)
    graph = trace(model, IMAGE)
    sigmoid, folded = SigmoidScale().score(model, graph), BatchNormScale().score(fold(model), graph)
    for name, values in BatchNormScale().score(model, graph).items():
        assert torch.equal(values, sigmoid[name])
        assert torch.equal(values, folded[name])


def test_a_network_without_batch_norms_is_refused() -> None:
    architecture = BY_NAME["inception"]
    with pytest.raises(CriterionError, match="no batch normalisation with a scale"):
        BatchNormScale().score(architecture.network(), architecture.graph)
