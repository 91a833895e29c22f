"""A wrapped network is the network inside, wherever it is handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gated_networks import images, residual
from networks import chain, conv, head, randomised, small
from torch import Tensor, nn

from pruning import (
    ChannelGates,
    KeepPlan,
    ScalingFactors,
    fold,
    measure_cost,
    remove_channels,
    remove_structures,
    structures,
    to_sigmoid_batchnorm,
    trace,
)
from pruning.criteria import BatchNormScale, Criterion, Taylor, WeightMagnitude
from pruning.errors import PlanError
from pruning.gates.channel_gates import Gated
from pruning.networks.wrappers import unwrapped
from pruning.regularizers import Slimming

EXAMPLE = torch.zeros(1, 3, 8, 8)
PLAN = KeepPlan({"conv1": (0, 2), "conv2": (1, 4)})

Wrap = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file: Path = tmp_path_factory.mktemp("group") / "store"
    store = torch.distributed.FileStore(str(file), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model)  # type: ignore[return-value]


WRAPPERS: dict[str, Wrap] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compile": compiled,
    "nested": lambda model: nn.DataParallel(compiled(model)),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest, process_group: None) -> Wrap:
    return WRAPPERS[request.param]


def network() -> nn.Module:
    return randomised(small()).eval()


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


def test_the_network_inside_is_itself(wrap: Wrap) -> None:
    model = network()
    assert unwrapped(wrap(model)) is model
    assert unwrapped(model) is model


def test_graphs_are_those_of_the_network(wrap: Wrap) -> None:
    model = network()
    assert trace(wrap(model), EXAMPLE).groups == trace(model, EXAMPLE).groups
    assert measure_cost(wrap(model), EXAMPLE) == measure_cost(model, EXAMPLE)


def test_surgery_gives_the_smaller_network_without_the_wrapper(wrap: Wrap) -> None:
    model = network()
    expected = remove_channels(model, trace(model, EXAMPLE), PLAN)
    smaller = remove_channels(wrap(model), trace(model, EXAMPLE), PLAN)
    assert type(smaller) is nn.Sequential
    assert smaller.state_dict().keys() == expected.state_dict().keys()
    inputs, _ = batch()
    assert torch.equal(smaller(inputs), expected(inputs))


def test_gates_act_on_the_network_inside(wrap: Wrap) -> None:
    model = network()
    graph = trace(model, EXAMPLE)
    gated, (inputs, _) = Gated(ChannelGates(wrap(model), graph)), batch()
    gated.mask.copy_(gated.gates.mask(PLAN))
    torch.testing.assert_close(gated(inputs), remove_channels(model, graph, PLAN)(inputs))


@pytest.mark.parametrize(
    "criterion", [Taylor(), WeightMagnitude(), BatchNormScale()], ids=lambda c: type(c).__name__
)
def test_criteria_and_regularizers_read_the_network_inside(
    wrap: Wrap, criterion: Criterion
) -> None:
    model, data = network(), [batch()]
    graph = trace(model, EXAMPLE)
    expected = criterion.score(model, graph, data)
    found = criterion.score(wrap(model), graph, data)
    assert all(torch.equal(found[name], scores) for name, scores in expected.items())
    penalty = Slimming(1.0, graph=graph)
    assert penalty(wrap(model)) == penalty(model)


@pytest.mark.parametrize("is_part", [False, True])
def test_what_is_compiled_in_place_is_gated_call_by_call(is_part: bool) -> None:
    model = network()
    graph, (inputs, _) = trace(model, EXAMPLE), batch()
    expected = remove_channels(model, graph, PLAN)(inputs)
    with ChannelGates(model, graph).probing(4) as plain:
        model(inputs).sum().backward()
    (model.head if is_part else model).compile(backend="eager")
    with torch.no_grad():
        model(inputs)
    gated = Gated(ChannelGates(model, graph))
    gated.mask.copy_(gated.gates.mask(PLAN))
    torch.testing.assert_close(gated(inputs), expected)
    with gated.gates.probing(4) as probe:
        model(inputs).sum().backward()
    torch.testing.assert_close(probe.gradients, plain.gradients)
    assert measure_cost(model, EXAMPLE) == measure_cost(network(), EXAMPLE)
    assert (model.head if is_part else model)._compiled_call_impl is not None


def test_structures_are_those_of_the_network_inside(wrap: Wrap) -> None:
    model = residual()
    found = structures(model, images(), ["branch"])
    assert structures(wrap(model), images(), ["branch"]) == found
    shorter = remove_structures(wrap(model), images(), found)
    assert torch.equal(shorter(images()), remove_structures(model, images(), found)(images()))
    factors = ScalingFactors(wrap(model), images(), ["branch", "filter"])
    assert factors.structures == found


def test_conversion_leaves_the_wrapper_off(wrap: Wrap) -> None:
    converted = to_sigmoid_batchnorm(wrap(network()))
    assert type(converted) is nn.Sequential
    assert type(fold(wrap(converted))) is nn.Sequential


def test_a_plan_for_tensors_that_are_not_there_is_refused() -> None:
    """Whatever is around the network or in it: nothing is left out in silence."""
    model = network()
    graph = trace(model, EXAMPLE)
    with pytest.raises(PlanError, match=r"the plan shrinks conv1\.weight, which this Sequential"):
        remove_channels(nn.Sequential(model), graph, PLAN)
    model.bn2 = nn.Identity()
    with pytest.raises(PlanError, match=r"the plan shrinks bn2\.weight"):
        remove_channels(model, graph, PLAN)
    nn.utils.parametrizations.weight_norm(model.conv1)
    with pytest.raises(PlanError, match=r"conv1\.weight.*trace this model again"):
        remove_channels(model, graph, KeepPlan({"conv1": (0, 2)}))


def test_a_size_without_a_tensor_is_not_left_out_either() -> None:
    model = chain(a=conv(3, 5), norm=nn.InstanceNorm2d(5), b=conv(5, 4), head=head(4))
    graph = trace(model, EXAMPLE)
    assert remove_channels(model, graph, KeepPlan({"a": (0, 1)})).norm.num_features == 2
    model.norm = None
    with pytest.raises(PlanError, match=r"the plan shrinks norm\.num_features"):
        remove_channels(model, graph, KeepPlan({"a": (0, 1)}))


def test_a_layer_may_go_without_an_offset_by_now() -> None:
    model = network()
    smaller = remove_channels(to_sigmoid_batchnorm(model), trace(model, EXAMPLE), PLAN)
    assert smaller.bn1.bias is None
    assert smaller.bn1.weight.shape == (2,)
