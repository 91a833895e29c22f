"""Networks that no builder makes, and such as read and put out anything."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import attributes, randomised, small
from stored_architectures import TRUST, pruned_network, state_hash
from torch import Tensor, nn

import pruning
from copycat import Architecture, WidthProfile, build, input_shape_of, load, read, save, verify
from copycat.export import to_onnx, to_pt2
from copycat.python_source import to_python
from pruning import KeepPlan
from pruning.criteria import Taylor
from pruning.errors import ArchitectureError

IMAGES = torch.zeros(1, 3, 8, 8)


def test_a_network_of_ones_own_is_saved_by_its_plan(tmp_path: Path) -> None:
    net = randomised(small(width=7, classes=5), seed=1)
    graph = pruning.trace(net, IMAGES)
    plan = KeepPlan({"conv1": (0, 2, 5), "conv2": (1, 3)})
    smaller = pruning.remove_channels(net, graph, plan)
    stored = save(tmp_path / "own", plan, smaller, example_input=IMAGES)
    assert (stored.builder, stored.classes, stored.input_shape) == (None, (), (3, 8, 8))
    assert stored.profile == WidthProfile(plan.widths)
    assert read(tmp_path / "own") == stored

    fresh = small(width=7, classes=5)
    before = state_hash(fresh)
    assert state_hash(load(tmp_path / "own", model=nn.DataParallel(fresh))) == state_hash(smaller)
    assert verify(tmp_path / "own", model=fresh) == stored
    assert state_hash(fresh) == before
    assert load(tmp_path / "own", model=fresh, graph=graph).conv1.out_channels == 3


def test_a_plan_needs_an_example(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="is saved with example_input=…"):
        save(tmp_path / "own", KeepPlan({}), small())


def test_without_a_network_the_folder_says_what_it_lacks(tmp_path: Path) -> None:
    save(tmp_path / "own", KeepPlan({}), randomised(small()), example_input=IMAGES)
    for use in (load, verify):
        with pytest.raises(ArchitectureError, match=r"own is of a network of one's own .*model=…"):
            use(tmp_path / "own")


def test_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "own", KeepPlan({}), randomised(small(width=7)), example_input=IMAGES)
    with pytest.raises(ArchitectureError, match="its widths make"):
        load(tmp_path / "own", model=small(width=6))
    with pytest.raises(ArchitectureError, match=r"cannot be rebuilt: .*cannot run on"):
        load(tmp_path / "own", model=nn.Conv2d(4, 4, 1))


def test_a_network_may_stand_in_for_its_builder(stored: Path) -> None:
    """Then nobody need trust what the file names."""
    model, _ = pruned_network()
    architecture = read(stored)
    assert architecture.builder is not None
    assert state_hash(load(stored, model=architecture.builder())) == state_hash(model)
    with pytest.raises(ArchitectureError, match="not trusted"):
        load(stored)
    assert load(stored, trust=TRUST)


class Counting(nn.Module):
    """Counts its runs, and keeps the shape of what it has seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
        self.num_runs, self.shape = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.num_runs, self.shape = self.num_runs + 1, x.shape
        return self.last(self.conv1(x))


def test_nothing_is_left_on_a_network_that_is_stored_or_loaded(tmp_path: Path) -> None:
    net = randomised(Counting())
    graph = pruning.trace(net, IMAGES)
    smaller = pruning.prune(
        net, IMAGES, "channels=50%", criterion=Taylor(loss=mean_of), batches=[(IMAGES, IMAGES)]
    )
    profile = WidthProfile.of_network(smaller, IMAGES, graph)
    save(tmp_path / "own", profile, smaller, example_input=IMAGES)
    loaded = load(tmp_path / "own", model=net)
    for network in (net, smaller, loaded):
        assert attributes(network)[""] == "{'num_runs': 0, 'shape': None}"


def mean_of(outputs: Tensor, _targets: Tensor) -> Tensor:
    return outputs.square().mean()


@dataclass
class Scores:
    """What some networks return."""

    logits: Tensor
    features: tuple[Tensor, ...]


class TwoInputs(nn.Module):
    """Reads an image and a few tokens; returns what `kind` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 5, 1)
        self.words = nn.Embedding(10, 5)
        self.head = nn.Linear(5, 4)
        self.kind = kind

    def forward(self, image: Tensor, tokens: Tensor) -> Any:
        hidden = self.last(self.norm(self.conv(image)).relu())
        logits = self.head(hidden.mean((2, 3)) + self.words(tokens).mean(1))
        return {
            "tensor": lambda: logits,
            "dict": lambda: {"out": logits, "aux": hidden.mean()},
            "tuple": lambda: (logits, [hidden.amax((2, 3))]),
            "dataclass": lambda: Scores(logits, (hidden.mean((2, 3)),)),
        }[self.kind]()


BOTH = {"image": torch.zeros(1, 3, 8, 8), "tokens": torch.tensor([[9, 0, 3]])}
KINDS = ("tensor", "dict", "tuple", "dataclass")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("example", [BOTH, tuple(BOTH.values())], ids=["keyword", "positional"])
def test_any_inputs_and_outputs_are_pruned_built_stored_and_loaded(
    kind: str, example: Any, tmp_path: Path
) -> None:
    net = randomised(TwoInputs(kind), seed=3)
    graph = pruning.trace(net, example)
    assert "conv" in [group.name for group in graph.prunable]
    assert pruning.measure_cost(net, example) == graph.cost()
    smaller = pruning.prune(net, example, "params=70%")
    profile = WidthProfile.of_network(smaller, example, graph)
    assert graph.cost(profile.widths).params <= 0.7 * graph.cost().params
    built = build(net, profile, example)
    assert pruning.measure_cost(built, example) == graph.cost(profile.widths)

    stored = save(tmp_path / "own", profile, smaller, example_input=example)
    assert stored.input_shape == input_shape_of(example)
    loaded = load(tmp_path / "own", model=TwoInputs(kind))
    assert state_hash(loaded) == state_hash(smaller)
    assert verify(tmp_path / "own", model=net) == stored


@pytest.mark.parametrize("kind", ["tensor", "dict", "dataclass"])
def test_any_inputs_and_outputs_are_exported(kind: str, tmp_path: Path) -> None:
    """Each writer runs what it wrote on one and on several samples and compares all outputs."""
    net = randomised(TwoInputs(kind), seed=3).eval()
    to_onnx(net, BOTH, tmp_path / "net.onnx")
    to_pt2(net, BOTH, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    images, tokens = torch.randn(2, 3, 8, 8), torch.tensor([[1, 2, 3], [4, 5, 6]])
    outputs, expected = program(images, tokens), net(images, tokens)
    first = outputs if kind == "tensor" else outputs[0]
    logits = {"tensor": lambda: expected, "dict": lambda: expected["out"]}
    expected_logits = logits.get(kind, lambda: expected.logits)()
    assert torch.allclose(first, expected_logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple"])
def test_any_inputs_and_outputs_are_written_as_python(kind: str) -> None:
    """The writer runs the module and compares all outputs, to the bit."""
    net = randomised(TwoInputs(kind), seed=3)
    architecture = Architecture(
        None, WidthProfile({}), input_shape_of(BOTH), (), pruning.measure_cost(net, BOTH)
    )
    assert "inputs such as 1×3×8×8 float32 and 1×3 int64" in to_python(architecture, net)


class Maps(nn.Module):
    """A score per class and pixel, for more pixels than a probe holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu())  # type: ignore[no-any-return]


def test_of_large_outputs_the_probe_holds_some(tmp_path: Path) -> None:
    net, example = Maps(), torch.zeros(1, 3, 110, 110)
    save(tmp_path / "maps", KeepPlan({}), net, example_input=example)
    stored = dataclasses.replace(read(tmp_path / "maps"), classes=("sky", "sea", "ship"))
    stored = save(tmp_path / "maps", stored, net)
    assert len(stored.probe) == 1024
    assert load(tmp_path / "maps", model=Maps())
    with pytest.raises(ArchitectureError, match="has 3 outputs and 2 names of classes"):
        save(tmp_path / "maps", dataclasses.replace(stored, classes=("sky", "sea")), net)
