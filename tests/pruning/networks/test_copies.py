"""Networks that cannot be copied are refused in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import chain, conv, small
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from pruning import KeepPlan, fold, measure_cost, remove_channels, to_sigmoid_batchnorm, trace
from pruning.errors import ModelError, TraceError
from pruning.networks.copies import deep_copy

EXAMPLE = torch.zeros(1, 3, 8, 8)


def lazy() -> nn.Module:
    return chain(conv1=nn.LazyConv2d(6, 3), norm=nn.LazyBatchNorm2d(), conv2=conv(6, 4))


def masked() -> nn.Module:
    model = small()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    return model


def normed() -> nn.Module:
    model = small()
    weight_norm(model.conv2)
    return model


def spectral() -> nn.Module:
    model = small()
    spectral_norm(model.conv2)
    model(EXAMPLE)
    return model


def computed() -> nn.Module:
    model = small()
    model.scale = model.conv1.weight.mean()
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (lazy, "LazyConv2d 'conv1' has no weights .*: run the network once first"),
    "masked": (masked, r"Conv2d 'conv1' keeps 'weight'.*: call torch\.nn\.utils\.prune\.remove"),
    "weight norm": (normed, r"'conv2' keeps 'weight'.*: use torch.*parametrizations\.weight_norm"),
    "spectral norm": (spectral, r"'conv2' keeps 'weight'.*: use .*parametrizations\.spectral_norm"),
    "computed": (computed, "Sequential keeps 'scale'.*: keep a detached copy"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_copied_is_refused_with_a_remedy(name: str) -> None:
    make, message = REFUSED[name]
    graph = trace(small(), EXAMPLE)
    with pytest.raises(TraceError, match=message):
        trace(make(), EXAMPLE)
    for act in (
        deep_copy,
        fold,
        to_sigmoid_batchnorm,
        lambda model: remove_channels(model, graph, KeepPlan({"conv1": (0,)})),
    ):
        with pytest.raises(ModelError, match=message):
            act(make())


def test_networks_made_in_inference_mode_are_like_any_other() -> None:
    expected = trace(small(), EXAMPLE).cost()
    with torch.inference_mode():
        model, example = small(), torch.zeros(1, 3, 8, 8)
        assert measure_cost(model, example).flops == expected.flops
        graph = trace(model, example)
    assert graph.cost() == trace(model, example).cost() == expected
    assert measure_cost(model, example).flops == expected.flops
    smaller = remove_channels(model, graph, KeepPlan({"conv1": (0, 3)}))
    assert smaller(EXAMPLE).shape == (1, 4)


def test_a_lazy_network_that_has_run_is_like_any_other() -> None:
    model = lazy()
    model(EXAMPLE)
    assert trace(model, EXAMPLE).group("conv1").pinned is None


def test_masks_that_were_made_permanent_are_weights() -> None:
    model = masked()
    prune.remove(model.conv1, "weight")
    assert trace(model, EXAMPLE).widths == trace(small(), EXAMPLE).widths
