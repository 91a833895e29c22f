"""What a trace finds in each network, and what it leaves alone."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import networks
import numpy as np
import pytest
import torch
import torchvision
from architecture import COMPUTED
from architectures import ARCHITECTURES, BY_NAME, IMAGE, Architecture
from gating import difference, gated, random_plan
from networks import Branches, between, chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import ChannelGraph, KeepPlan, measure_cost, remove_channels, trace
from pruning.errors import TraceError
from pruning.networks.nested_tensors import numbers_in
from pruning.tracing import traced_cost

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
OUTPUT = "the network's output"


def described(graph: ChannelGraph) -> list[list[object]]:
    """Everything about the groups that JSON can hold."""
    return [
        [g.name, g.width, g.unit, g.pinned, g.residual, [*g.producers], [*g.layers]]
        for g in graph.groups
    ]


@every_architecture
def test_groups_are_the_expected_ones(architecture: Architecture) -> None:
    groups = architecture.graph.prunable
    assert [(g.name, (g.width, g.unit)) for g in groups] == list(architecture.prunable.items())


@every_architecture
def test_other_groups_are_pinned_for_the_expected_reason(architecture: Architecture) -> None:
    for group in architecture.graph.groups:
        if group.name not in architecture.prunable:
            assert group.pinned is not None
            assert architecture.pinned.get(group.name, OUTPUT) in group.pinned, group.name
    assert set(architecture.pinned) <= set(architecture.graph.widths)


@every_architecture
def test_residual_groups_are_marked(architecture: Architecture) -> None:
    found = {group.name for group in architecture.graph.groups if group.residual}
    assert found == architecture.residual


@every_architecture
def test_the_cost_alone_is_that_of_the_graph(architecture: Architecture) -> None:
    model, model_input = architecture.network(), architecture.example()
    assert traced_cost(model, model_input) == architecture.graph.cost()


@every_architecture
def test_names_are_unique_and_name_a_producer(architecture: Architecture) -> None:
    graph = architecture.graph
    names = [group.name for group in graph.groups]
    assert len(set(names)) == len(names)
    for group in graph.groups:
        assert group.name.removesuffix(".1") == group.producers[0]
        assert set(group.producers) <= set(group.layers)
        assert len(group.unit_of_channel) == group.width
        counts = torch.bincount(torch.from_numpy(group.unit_of_channel)).tolist()
        assert counts == [group.unit] * group.num_units


def test_another_process_finds_the_same() -> None:
    """Names go into files: they must not depend on hash seeds or addresses."""
    script = (
        "import json, sys; sys.path.append(sys.argv[1]); import architectures as a\n"
        "print(json.dumps({x.name: [[g.name, g.width, g.unit, g.pinned, g.residual,"
        " [*g.producers], [*g.layers]] for g in x.graph.groups] for x in a.ARCHITECTURES}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(Path(networks.__file__).parent)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(result.stdout) == {a.name: described(a.graph) for a in ARCHITECTURES}


@every_architecture
def test_a_second_trace_finds_the_same_and_leaves_the_network_untouched(
    architecture: Architecture,
) -> None:
    """Whatever the weights, the mode and the values of the input."""
    model = architecture.network(seed=4).train()
    model_input = architecture.example(seed=4)
    before, input_before = copy.deepcopy(model.state_dict()), copy.deepcopy(model_input)
    modules = list(model.modules())
    again = trace(model, model_input)
    assert described(again) == described(architecture.graph)
    assert again.cost() == architecture.graph.cost()
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    for module in modules:
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(
        torch.equal(new, old)
        for new, old in zip(_tensors(model_input), _tensors(input_before), strict=True)
    )


def _tensors(inputs: object) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, dict) else inputs)  # type: ignore[call-overload]


def test_an_input_that_the_network_overwrites_is_left_alone() -> None:
    """Also where the network has to run on real tensors."""
    model = Branches(
        lambda net, x: net.last(x.mul_(2)) if x.sum() > 0 else net.last(x), last=conv(3, 4)
    )
    example = torch.ones(IMAGE)
    trace(model, example)
    assert torch.equal(example, torch.ones(IMAGE))


def test_no_arithmetic_is_done() -> None:
    """A gigapixel image, on which this network would take minutes and 100 GB."""
    model = chain(first=conv(3, 64), second=conv(64, 64), head=head(64))
    start = time.process_time()
    graph = trace(model, torch.empty(1, 3, 32768, 32768, device="meta"))
    assert time.process_time() - start < 5
    assert graph.cost().flops == 32768**2 * (3 * 64 * 9 + 64 * 64 * 9 + 64) + 64 * 4


def test_a_wrong_input_is_an_error_that_names_its_shape() -> None:
    model = chain(first=conv(3, 6), last=conv(6, 4))
    message = r"^Sequential cannot run on an example input of 1×4×8×8: .*to have 3 channels"
    with pytest.raises(TraceError, match=message):
        trace(model, torch.zeros(1, 4, 8, 8))


def test_an_error_names_every_input() -> None:
    architecture = BY_NAME["several inputs"]
    with pytest.raises(
        TraceError, match=r"^Branches cannot run on an example input of 1×3×8×8, 1×9: "
    ):
        trace(architecture.make(), (torch.zeros(IMAGE), torch.zeros(1, 9)))
    with pytest.raises(
        TraceError, match=r"^Branches cannot run on an example input of no tensor: "
    ):
        trace(architecture.make(), ())


class Sample(NamedTuple):
    image: Tensor
    codes: dict[str, Tensor]


class OfSamples(nn.Module):
    """Reads a named tuple; the second layer is used in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.code, self.last = conv(3, 5), nn.Linear(9, 5), conv(5, 4)
        self.aux = conv(5, 4)

    def forward(self, sample: Sample) -> Any:
        y = self.first(sample.image) + self.code(sample.codes["a"])[:, :, None, None]
        return (self.last(y), self.aux(y)) if self.training else self.last(y)


def test_inputs_may_be_named_tuples() -> None:
    sample = Sample(torch.zeros(IMAGE), {"a": torch.zeros(1, 9)})
    graph = trace(OfSamples(), (sample,))
    assert graph.group("first").pinned is None
    assert "aux" in graph.group("first").layers


def test_a_network_that_cannot_be_copied_is_an_error() -> None:
    model = conv(3, 4)
    model.lock = (_ for _ in ())  # type: ignore[assignment]
    with pytest.raises(TraceError, match=r"^Conv2d cannot be copied: cannot pickle"):
        trace(model, torch.zeros(IMAGE))


class TwoMatrices(nn.Module):
    """Produces two groups under its own name, and has a layer called like the second's number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(5, 3, 1, 1))
        self.second = nn.Parameter(torch.randn(6, 5, 1, 1))
        self.add_module("1", nn.Conv2d(6, 7, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("1")(F.conv2d(F.conv2d(x, self.first), self.second))


def test_numbered_names_avoid_those_of_layers() -> None:
    graph = trace(chain(stage=TwoMatrices(), head=conv(7, 4)), torch.zeros(IMAGE))
    assert graph.widths == {"stage": 5, "stage.2": 6, "stage.1": 7, "head": 4}


def test_layers_along_a_group() -> None:
    graph = BY_NAME["squeeze-excitation"].graph
    group = graph.group("block.expand")
    assert group.producers == ("block.expand", "block.depthwise", "block.excite")
    assert set(group.layers) == {
        *group.producers,
        "block.expand_bn",
        "block.depthwise_bn",
        "block.squeeze",
        "block.project",
    }


def test_groups_that_fail_only_together_are_pinned_together() -> None:
    """Code that is only wrong without channels of both, so that neither can be blamed."""

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        x = net.stem(x)
        left, right = net.left(x), net.right(x)
        is_whole = left.shape[1] == 6 or right.shape[1] == 5
        return net.last(torch.cat([left, right * (1 if is_whole else 2)], dim=1))

    layers = {"stem": conv(3, 7), "left": conv(7, 6), "right": conv(7, 5), "last": conv(11, 4)}
    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
    assert [group.name for group in graph.prunable] == ["stem"]
    assert "computed from the number of channels" in str(graph.group("left").pinned)


def test_one_bad_group_does_not_pin_the_others() -> None:
    layers = {f"conv{i}": conv(3 if i == 0 else 6, 6) for i in range(9)}

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        for name in layers:
            x = net.get_submodule(name)(x)
            x = x.view(1, 6, 8, 8) if name in ("conv2", "conv5") else x
        return x

    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
    assert [g.name for g in graph.groups if g.pinned] == ["conv2", "conv5", "conv8"]
    assert "size written into the network's code" in str(graph.group("conv5").pinned)


def test_a_network_that_ends_its_process_is_an_error() -> None:
    ending = Branches(lambda net, x: sys.exit(3) or net.last(x), last=conv(3, 10))
    with pytest.raises(TraceError, match="it ends the process: SystemExit: 3"):
        trace(ending, torch.zeros(IMAGE))


def test_a_network_that_ends_its_process_when_it_is_narrower_is_pinned() -> None:
    def narrow_is_the_end(net: nn.Module, x: Tensor) -> Tensor:
        x = net.first(x)
        if x.shape[1] < 8:
            sys.exit("too narrow")
        return net.last(net.second(x))

    model = Branches(narrow_is_the_end, first=conv(3, 8), second=conv(8, 8), last=conv(8, 10))
    graph = trace(model, torch.zeros(IMAGE))
    assert [group.name for group in graph.prunable] == ["second"]
    assert "too narrow" in str(graph.group("first").pinned)


def test_code_that_depends_on_the_width_is_pinned() -> None:
    model = between(lambda x: x if x.shape[1] == 6 else F.relu(x))
    graph = trace(model, torch.zeros(IMAGE))
    assert graph.group("first").pinned == (
        "the network takes another path through its code with fewer channels"
    )


def several(x: Tensor) -> tuple[Tensor, list[Tensor], int]:
    return x * 2, [x.sum(1), x.clone()], x.shape[1]


def nothing(x: Tensor) -> None:
    x.copy_(x.cumsum(1))


def a_number(x: Tensor) -> int:
    return x.dim()


@pytest.mark.parametrize(
    ("function", "mutated"), [(several, ()), (nothing, ("x",)), (a_number, ())]
)
def test_an_operator_without_a_rule_pins_whatever_it_returns(
    function: Callable[[Tensor], Any], mutated: tuple[str, ...]
) -> None:
    name = f"espalier_tests::{function.__name__}"
    operator = torch.library.custom_op(name, function, mutates_args=mutated)
    operator.register_fake(
        (lambda x: None) if mutated else function  # what it does to values does not matter
    )

    def wiring(x: Tensor) -> Tensor:
        result = operator(x)
        return result[0] if isinstance(result, tuple) else x

    graph = trace(between(wiring), torch.zeros(IMAGE))
    assert graph.group("first").pinned == f"the operator {name} has no rule"


class ChosenBoxes(nn.Module):
    """Goes on with what it finds at positions of the first channel, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.neck = conv(6, 5)
        self.objectness = conv(5, 1, 1)
        self.hidden = nn.Linear(5 * 4, 7)
        self.classes = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.neck(F.relu(self.stem(x))))
        scores = self.objectness(features).flatten(1)
        places = (scores[0] > scores.mean()).nonzero()[:, 0]
        rows = torch.div(places, x.shape[-1], rounding_mode="floor")
        corners = torch.stack([places % x.shape[-1], rows], 1).to(x.dtype)
        boxes = torch.cat([corners, corners + 3], 1)
        kept = torchvision.ops.nms(boxes, scores[0, places], 0.3)
        pooled = torchvision.ops.roi_align(features, [boxes[kept]], 2)
        by_half = torch.zeros(len(kept), features.shape[1], 2, 2, dtype=x.dtype)
        for is_left in (True, False):
            here = (boxes[kept][:, 0] < x.shape[-1] // 2) == is_left
            by_half[here] = pooled[here]
        classes = self.classes(F.relu(self.hidden(by_half.flatten(1))))
        return classes.mean(0, keepdim=True) + int(kept.numel() > 10_000)


def test_code_that_goes_on_with_what_it_finds() -> None:
    """Boxes, of which there are as many as the weights and the image make."""
    model = randomised(ChosenBoxes())
    graph = trace(model, torch.rand(IMAGE))
    assert [(g.name, g.width) for g in graph.prunable] == [("stem", 6), ("neck", 5), ("hidden", 7)]
    smaller = remove_channels(model, graph, KeepPlan({"stem": (0, 4), "neck": (2,)}))
    assert smaller(torch.rand(2, 3, 8, 8)).shape == (1, 4)


def test_what_is_read_is_the_same_in_every_run() -> None:
    """Numbers that leave a tensor for Python past torch's dispatcher, too."""

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        y = net.first(x)
        largest = y.abs().amax((0, 2, 3)).argsort().tolist()
        times = 1 + int((y[0, 0] > 0).sum()) % 2
        return net.last(y * times) + (0.0 if largest else 1.0) + float(x.numpy().sum()) * 0

    model = Branches(wiring, first=conv(3, 6), last=conv(6, 4))
    graph = trace(model, torch.rand(IMAGE))
    assert graph.group("first").pinned == "channels moved along their axis"


def test_a_number_of_channels_read_from_a_tensor_is_still_computed() -> None:
    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        y = net.first(x)
        y = y * float(torch.tensor(y.shape[1]).sqrt())
        return net.last(y * 2 if x.sum() > 0 else y)

    model = Branches(wiring, first=conv(3, 6), last=conv(6, 4))
    graph = trace(model, torch.rand(IMAGE))
    assert "computed from the number of channels" in str(graph.group("first").pinned)


class Slots:
    """A result without a dictionary of attributes."""

    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@dataclass(slots=True)
class Inner:
    named: dict[str, Slots]


def test_the_output_is_seen_in_objects_of_any_kind() -> None:
    model = Branches(
        lambda net, x: [Inner({"logits": Slots(net.last(net.first(x)))})],
        first=conv(3, 6),
        last=conv(6, 10),
    )
    graph = trace(model, torch.zeros(IMAGE))
    assert graph.group("last").pinned == OUTPUT
    assert [group.name for group in graph.prunable] == ["first"]


def on_itself(net: nn.Module, x: Tensor) -> nn.Module:
    net.logits = net.last(x)
    return net


@pytest.mark.parametrize(
    ("wiring", "kind"),
    [
        (lambda net, x: (y for y in [net.last(x)]), "generator"),
        (on_itself, "Branches"),
        (lambda net, x: print(end="") or (net.last(x), None)[1], "NoneType"),
    ],
)
def test_a_network_without_a_tensor_in_its_output_is_refused(
    wiring: Callable[[nn.Module, Tensor], Any], kind: str
) -> None:
    model = Branches(wiring, last=conv(3, 10))
    with pytest.raises(TraceError, match=rf"no tensor was found in what Branches returns \({kind}"):
        trace(model, torch.zeros(IMAGE))


HIDING_PLACES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "generator": lambda _net, y: (value for value in [y]),
    "map": lambda _net, y: map(torch.Tensor.relu, [y]),
    "set": lambda _net, y: {y},
    "closure": lambda _net, y: lambda: y,
    "partial": lambda _net, y: functools.partial(print, y),
    "attribute": lambda net, y: setattr(net, "scores", y),
    "attribute, a copy": lambda net, y: setattr(net, "scores", y.detach()),
    "list on the network": lambda net, y: vars(net).setdefault("kept", []).append(y),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_what_a_network_leaves_where_nobody_looks_is_its_output(place: str) -> None:
    """As long as there is a tensor beside it that is seen."""

    def forward(net: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
        features = net.first(x)
        return net.last(features), HIDING_PLACES[place](net, net.hidden(features))

    model = Branches(forward, first=conv(3, 6), last=conv(6, 4), hidden=conv(6, 10))
    graph = trace(model, torch.zeros(IMAGE))
    assert [group.name for group in graph.prunable] == ["first"]
    assert "nothing in the network reads" in str(graph.group("hidden").pinned)


def test_what_is_kept_to_be_looked_at_is_free() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        net.features = net.first(x)
        net.copy = net.features.detach().clone()
        return net.last(net.features)

    model = Branches(forward, first=conv(3, 6), last=conv(6, 4))
    assert [group.name for group in trace(model, torch.zeros(IMAGE)).prunable] == ["first"]


class OwnStatistics(nn.Module):
    """Puts a new tensor in the place of its buffer, and one of no gradient beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 6), conv(6, 4)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return self.last(x)


def test_buffers_that_are_replaced_in_a_run_are_no_output() -> None:
    graph = trace(OwnStatistics(), torch.zeros(IMAGE))
    assert [group.name for group in graph.prunable] == ["first"]


def test_a_network_that_was_used_before_is_traced_like_a_new_one() -> None:
    architecture = BY_NAME["caches on itself"]
    model = architecture.network()
    for size in (8, 12):
        model(torch.zeros(1, 3, size, size))
    assert described(trace(model, architecture.example())) == described(architecture.graph)
    assert model.head.shape == (1, 6, 12, 12)
    assert model.head.num_runs == 2


def test_counting_leaves_nothing_on_the_network() -> None:
    model = BY_NAME["caches on itself"].network()
    measure_cost(model, torch.zeros(IMAGE))
    assert model.head.num_runs == 0
    assert model.head.shape is None


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_a_table_have_its_columns(mode: str) -> None:
    model = chain(bag=nn.EmbeddingBag(9, 6, mode=mode), last=nn.Linear(6, 4))
    example = torch.tensor([[1, 5, 8]])
    graph = trace(model, example)
    assert {g.name: g.width for g in graph.prunable} == {"bag": 6}
    smaller = remove_channels(model, graph, KeepPlan({"bag": (0, 4)}))
    with torch.no_grad():
        model.last.weight[:, [1, 2, 3, 5]] = 0
        assert torch.allclose(smaller(example), model(example))


def test_noise_has_the_channels_of_what_it_is_added_to() -> None:
    graph = trace(between(lambda x: x + torch.randn_like(x)), torch.zeros(IMAGE))
    assert graph.group("first").pinned is None


def test_a_layer_that_never_runs_is_named() -> None:
    model = Branches(
        lambda net, x: net.last(net.first(x)), first=conv(3, 6), spare=conv(6, 5), last=conv(6, 4)
    )
    assert any("spare" in note for note in trace(model, torch.zeros(IMAGE)).cost().notes)


@pytest.mark.parametrize(
    "image_of",
    [
        lambda net, y: y.view(-1, net.up.in_channels, 2, 2),
        lambda net, y: y.view(len(y), net.up.in_channels, 2, 2),
        lambda net, y: y.view(len(y), -1, 2, 2),
        lambda net, y: y.reshape(-1, net.up.in_channels, 2, 2),
        lambda net, y: y.unflatten(1, (net.up.in_channels, 2, 2)),
        lambda net, y: y.unflatten(1, (-1, 2, 2)),
        lambda net, y: y.view(y.shape[0], y.shape[1] // 4, 2, 2),
        lambda net, y: y.view(len(y), 2, 2, -1).permute(0, 3, 1, 2),
    ],
    ids=["-1, C", "N, C", "N, -1", "reshape", "unflatten C", "unflatten -1", "divided", "last"],
)
def test_features_become_an_image_in_any_spelling(
    image_of: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    model = Branches(
        lambda net, x: net.last(F.relu(net.up(image_of(net, net.enter(x))))),
        enter=nn.Linear(9, 20),
        up=nn.ConvTranspose2d(5, 6, 2, 2),
        last=conv(6, 4),
    )
    group = trace(model, torch.zeros(1, 9)).group("enter")
    assert (group.pinned, group.width, group.unit) == (None, 20, 4)


def test_tracing_ends_in_time_with_what_is_certain() -> None:
    layers = {f"conv{i}": conv(3 if i == 0 else 6, 6) for i in range(4)}

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        for name in layers:
            x = net.get_submodule(name)(x)
        return x

    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE), time_limit=1e-9)
    assert {group.pinned for group in graph.groups[:-1]} == {
        "tracing was stopped at 1e-09 s, before it was known whether these can go"
    }


def test_a_hundred_written_sizes_are_found_in_as_many_runs_as_ten() -> None:
    """One run for each would take time in the square of their number."""

    def num_runs(number: int) -> int:
        layers = {f"conv{i}": conv(3 if i == 0 else 4, 4, 1) for i in range(number)}
        runs: list[int] = []

        def wiring(net: nn.Module, x: Tensor) -> Tensor:
            runs.append(number)
            for name in layers:
                x = net.get_submodule(name)(x).view(1, 4, 8, 8)
            return x

        graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
        assert graph.prunable == ()
        return len(runs)

    assert num_runs(100) == num_runs(10)


@pytest.mark.parametrize(
    ("kept", "width"), [({"enter": (0, 3)}, 4), ({"enter": (2,)}, 1), ({"enter.1": (1,)}, 7)]
)
def test_parts_that_become_alike_may_be_traced_again(
    kept: dict[str, tuple[int, ...]], width: int
) -> None:
    """Parts of equal sizes lose the same positions from then on; no other result is wrong."""
    architecture = BY_NAME["split at sizes read from layers"]
    inputs = architecture.example(1, torch.float64)
    model = architecture.network(1, torch.float64)
    smaller = remove_channels(model, architecture.graph, KeepPlan(kept))
    graph = trace(smaller, inputs)
    assert graph.group("enter").width == width
    for seed in range(3):
        plan = random_plan(graph, seed)
        again = remove_channels(smaller, graph, plan)
        assert difference(again(inputs), gated(smaller, graph, plan)(inputs)) < 1e-9


@pytest.mark.parametrize(
    "number", [6, 6.0, 6j, np.int64(6), [[True, 6]], {"a": (6,)}, np.array([6, 1j])], ids=repr
)
def test_numbers_are_found_wherever_they_are(number: Any) -> None:
    assert 6 in list(numbers_in(number))


NUMBERS: dict[str, Callable[[int], Any]] = {
    "numpy": lambda n: torch.from_numpy(np.float32([n])),
    "numpy by torch.tensor": lambda n: torch.tensor(np.float32([n])),
    "an old constructor": lambda n: torch.Tensor([n]),
    "a long vector": lambda n: torch.from_numpy(np.full(100, n, np.float32))[7],
    "asarray": lambda n: torch.asarray([float(n)]),
    "a complex number": lambda n: complex(n, 0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_past_the_operators_pin_what_they_are_computed_from(name: str) -> None:
    make = NUMBERS[name]
    model = between(lambda x: (x * make(x.shape[1])).real)
    assert COMPUTED in str(trace(model, torch.zeros(IMAGE)).group("first").pinned)
    constant = between(lambda x: (x * make(3)).real)
    assert trace(constant, torch.zeros(IMAGE)).group("first").pinned is None


def test_a_run_goes_on_after_a_reshape_that_fails_by_itself() -> None:
    """So each of several layers is pinned by the one run that shows it."""
    layers = {f"conv{i}": conv(3 if i == 0 else 6, 6, 1) for i in range(4)}
    ends: list[str] = []

    def wiring(net: nn.Module, x: Tensor) -> Tensor:
        for name in layers:
            x = net.get_submodule(name)(x).unflatten(1, (2, 3)).flatten(1, 2)
        ends.append(name)
        return x

    graph = trace(Branches(wiring, **layers), torch.zeros(IMAGE))
    assert graph.prunable == ()
    assert len(ends) == 3  # in both modes, and once with fewer channels


def test_training_statistics_are_not_updated() -> None:
    model = chain(first=conv(3, 6), bn=nn.BatchNorm2d(6), last=conv(6, 4))
    trace(model.train(), torch.randn(IMAGE))
    assert model.bn.num_batches_tracked == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtype_does_not_matter(dtype: torch.dtype) -> None:
    architecture = BY_NAME["u-net"]
    graph = trace(architecture.network(dtype=dtype), architecture.example(dtype=dtype))
    assert described(graph) == described(architecture.graph)
