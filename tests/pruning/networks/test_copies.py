"""Networks that cannot be copied are refused in one line that says what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from networks import chain, conv, head, small
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


def compiled() -> nn.Module:
    return chain(conv1=conv(3, 6), block=torch.jit.script(nn.Sequential(conv(6, 4), nn.ReLU())))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (lazy, "LazyConv2d 'conv1' has no weights .*: run the network once first"),
    "masked": (masked, r"Conv2d 'conv1' keeps 'weight'.*: call torch\.nn\.utils\.prune\.remove"),
    "weight norm": (normed, r"'conv2' keeps 'weight'.*: use torch.*parametrizations\.weight_norm"),
    "spectral norm": (spectral, r"'conv2' keeps 'weight'.*: use .*parametrizations\.spectral_norm"),
    "compiled": (compiled, "ScriptModule 'block' is compiled by TorchScript.*: put the module"),
    "computed": (computed, "Sequential keeps 'scale'.*: keep a detached copy"),
}


@pytest.mark.filterwarnings("ignore:.*(weight_norm|jit.script).* is deprecated")
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


class WithOwnCopy(nn.Module):
    """Holds the network that it is in, and copies itself."""

    def __init__(self, around: nn.Module, shared: list[int]) -> None:
        super().__init__()
        self.around, self.shared = [around], shared

    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        around = copy.deepcopy(self.around[0], memo)
        assert isinstance(around, nn.Module)
        return WithOwnCopy(around, copy.deepcopy(self.shared, memo))


def test_copies_are_those_of_deepcopy() -> None:
    shared = [1, 2]
    model = chain(first=conv(3, 6), head=head(6))
    model.same = model.first
    model.own, model.holder = WithOwnCopy(model, shared), nn.Module()
    model.holder.shared, model.holder.friends = shared, (model.first, {"head": model.head})
    model.first.register_forward_hook(lambda *_: None)
    twin = deep_copy(model)
    assert twin.own.around[0] is twin
    assert twin.own.shared is twin.holder.shared
    assert twin.own.shared == shared
    assert twin.own.shared is not shared
    assert twin.holder.friends[0] is twin.first is twin.same
    assert twin.holder.friends[1]["head"] is twin.head
    assert len(twin.first._forward_hooks) == 1
    assert {id(p) for p in twin.parameters()}.isdisjoint({id(p) for p in model.parameters()})
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    twin.first.register_forward_hook(lambda *_: None)
    assert len(model.first._forward_hooks) == 1


def test_modules_without_a_way_of_their_own_are_copied_by_their_attributes(monkeypatch) -> None:
    """It takes a fifth of the time of pickling them for a copy."""
    model = chain(first=conv(3, 6), norm=nn.BatchNorm2d(6), head=head(6))
    monkeypatch.setattr(
        nn.Module, "__reduce_ex__", lambda *_: pytest.fail("pickled for a copy"), raising=False
    )
    twin = deep_copy(model)
    assert twin.first is not model.first
    torch.testing.assert_close(twin.state_dict(), model.state_dict())


def test_what_copies_itself_finds_copies_of_what_it_holds() -> None:
    """A graph module reads the buffers of its parts while it is copied."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    model = nn.Sequential(torch.fx.symbolic_trace(nn.Sequential(Scaled(), nn.Linear(3, 2))))
    twin = deep_copy(model)
    x = torch.ones(1, 3)
    torch.testing.assert_close(twin(x), model(x))
    assert {id(t) for t in twin.state_dict(keep_vars=True).values()}.isdisjoint(
        {id(t) for t in model.state_dict(keep_vars=True).values()}
    )
