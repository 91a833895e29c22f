"""ONNX, pt2 and Python: the same network everywhere, or one error and no file."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import randomised
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from copycat import Architecture, Builder, WidthProfile, build
from copycat.build import without_removed
from copycat.export import TOLERANCE, to_onnx, to_pt2, written_whole
from copycat.python_source import to_python
from pruning import Structure, fold, measure_cost, to_sigmoid_batchnorm, trace
from pruning.errors import ArchitectureError


@dataclass(frozen=True)
class Case:
    """A network of this builder, its groups `keep` times as wide, without some structures."""

    target: str
    shape: tuple[int, int, int] = (3, 32, 32)
    removed: tuple[Structure, ...] = ()
    keep: float = 0.4

    @property
    def builder(self) -> Builder:
        arguments: dict[str, object] = {"num_classes": 5}
        if self.target.startswith("torchvision.models:googlenet"):
            arguments |= {"aux_logits": False, "init_weights": False}
        if self.target.startswith("networks:"):
            arguments = {}
        return Builder(self.target, arguments)


CASES = {
    "digits-vgg": Case("search.models:digits_vgg", (1, 8, 8)),
    "resnet20": Case("search.models:resnet20"),
    "no branch": Case("search.models:resnet20", removed=(Structure("branch", "stage2.block1"),)),
    "no block": Case("search.models:resnet20", removed=(Structure("block", "stage2.block0"),)),
    "no layer": Case(
        "search.models:digits_vgg",
        (1, 8, 8),
        (Structure("layer", "features.conv3"), Structure("layer", "features.conv4")),
    ),
    "googlenet": Case("torchvision.models:googlenet", (3, 64, 64)),
    "shufflenet": Case("torchvision.models:shufflenet_v2_x0_5"),
    "efficientnet": Case("torchvision.models:efficientnet_b0"),
    "user's": Case("networks:squeeze_excitation", (3, 8, 8)),
    "resnet18": Case("torchvision.models:resnet18"),
    "mobilenet_v2": Case("torchvision.models:mobilenet_v2"),
    "densenet": Case("torchvision.models:densenet121"),
}


def with_slow(names: Sequence[str], slow: Sequence[str]) -> list[Any]:
    """Names of cases; `slow` are tried in the slow tests alone."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


FOR_PT2 = with_slow(
    ("no branch", "no block", "no layer", "user's"), slow=("digits-vgg", "mobilenet_v2")
)
FOR_ONNX = with_slow(("no layer", "user's"), slow=("digits-vgg", "no branch", "googlenet"))


@cache
def stored(name: str) -> tuple[Architecture, nn.Module]:
    """The network of a case with random weights, in evaluation; not to be changed."""
    case = CASES[name]
    example = torch.zeros(1, *case.shape)
    base = case.builder()
    graph = trace(without_removed(base, WidthProfile({}, case.removed), example), example)
    widths = {
        group.name: max(1, int(case.keep * group.num_units)) * (group.width // group.num_units)
        for group in graph.prunable
    }
    profile = WidthProfile(widths, case.removed)
    model = randomised(build(base, profile, example)).eval()
    cost = measure_cost(model, example)
    classes = tuple(f"class {i}" for i in range(model(example).shape[1]))
    return Architecture(case.builder, profile, case.shape, classes, cost), model


def in_onnxruntime(file: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(["logits"], {"images": images.numpy()})
    return torch.from_numpy(np.asarray(output))


def difference(found: Tensor, expected: Tensor) -> float:
    """As a share of the largest output."""
    assert found.shape == expected.shape
    with torch.no_grad():
        return float((found - expected).abs().max() / expected.abs().max())


# ONNX and pt2


@pytest.mark.parametrize("name", FOR_ONNX)
def test_onnx_gives_what_torch_gives_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    architecture, model = stored(name)
    to_onnx(model, architecture.example_input, tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    for number in (1, 2, 5):
        images = torch.randn(number, *architecture.input_shape)
        found = in_onnxruntime(tmp_path / "net.onnx", images)
        assert difference(found, model(images).detach()) <= TOLERANCE
    written = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(written)
    assert {node.domain for node in written.graph.node} == {""}


@pytest.mark.parametrize("name", FOR_PT2)
def test_pt2_gives_what_torch_gives_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    architecture, model = stored(name)
    to_pt2(model, architecture.example_input, tmp_path / "net.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for number in (1, 2, 5):
        images = torch.randn(number, *architecture.input_shape)
        assert difference(loaded(images), model(images)) <= 1e-6


def test_subnormal_scales_survive_exports(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        model[0].bias.fill_(5)
        model[1].weight.copy_(torch.tensor([1e-39, 1e-41, 1e-40, 1]))
    images = torch.ones(2, 3, 4, 4)
    expected = model(images).detach()
    assert (expected[:, :3] > 0).all()
    assert (expected[:, :3] < torch.finfo(torch.float32).smallest_normal).all()
    to_onnx(model, images[:1], tmp_path / "net.onnx")
    to_pt2(model, images[:1], tmp_path / "net.pt2")
    for found in (
        in_onnxruntime(tmp_path / "net.onnx", images),
        torch.export.load(tmp_path / "net.pt2").module()(images),
    ):
        assert torch.allclose(found / expected, torch.ones(()), rtol=1e-2)


def test_sigmoid_batchnorm_is_folded_and_the_model_left_alone(tmp_path: Path) -> None:
    model = randomised(to_sigmoid_batchnorm(stored("digits-vgg")[1])).train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 1, 8, 8)
    to_onnx(model, images, tmp_path / "net.onnx")
    to_pt2(model, images, tmp_path / "net.pt2")
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "Conv" in operators
    assert "Sigmoid" not in operators
    assert "sigmoid" not in str(torch.export.load(tmp_path / "net.pt2").graph)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = fold(model).eval()(images).detach()
    assert difference(in_onnxruntime(tmp_path / "net.onnx", images), expected) <= TOLERANCE


class Wired(nn.Module):
    """A function of the output of a linear layer."""

    def __init__(self, wiring: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.wiring = wiring

    def forward(self, images: Tensor) -> Tensor:
        return self.wiring(self.layer(images.flatten(1)))


BAD = {
    "a number of images in the code": lambda x: x.reshape(3, 4) + 0,
    "a decision on values": lambda x: x if x.sum() > 0 else -x,
    "an error": lambda x: x @ torch.zeros(3, 3),
}


@pytest.mark.parametrize("write", [to_onnx, to_pt2])
@pytest.mark.parametrize("problem", BAD)
def test_what_cannot_be_exported_is_one_error_and_no_file(
    problem: str, write: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(ArchitectureError) as caught:
        write(Wired(BAD[problem]), torch.zeros(1, 1, 2, 2), tmp_path / "net")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [1 + 2 * TOLERANCE, float("nan")])
def test_onnx_that_differs_is_refused(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(onnxruntime.InferenceSession):
        def run(self, *args: object) -> list[object]:
            return [factor * output for output in super().run(*args)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(ArchitectureError, match=r"differs from torch by .* nothing was written"):
        to_onnx(model, torch.zeros(1, 1, 2, 2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_pt2_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def module(self) -> Callable[[Tensor], Tensor]:
            return lambda images: images.flatten(1)

    monkeypatch.setattr(torch.export, "load", lambda _: Wrong())
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(ArchitectureError, match="read again, differs from torch"):
        to_pt2(model, torch.zeros(1, 1, 2, 2), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArchitectureError, match=f"needs {package}.*pip install 'espalier.onnx.'"):
        to_onnx(nn.Flatten(), torch.zeros(1, 1, 2, 2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with written_whole(target) as temporary:
        temporary.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(ArchitectureError, match="already exists"), written_whole(target):
        raise AssertionError
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "x") as temporary:
        temporary.write_text(str(1 / temporary.write_text("")))
    with pytest.raises(ArchitectureError, match="cannot write"), written_whole(target / "x"):
        raise AssertionError
    assert sorted(tmp_path.rglob("*")) == [target.parent, target]


# Python

WITHOUT_THIS_PROJECT = """
import json, sys
from pathlib import Path
for name in ("pruning", "copycat", "search", "mlflow_server", "ray", "optuna", "mlflow",
             "torchvision", "networks"):
    sys.modules[name] = None  # importing it raises
import importlib.util, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for folder in Path(".").iterdir():
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.build()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    with torch.no_grad():
        output = model.eval()(load_file(folder / "images.safetensors")["images"])
    save_file({"output": output}, folder / "output.safetensors")
    (folder / "classes.json").write_text(json.dumps(module.CLASSES))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in a folder: its module, and what it gave in a process without this project."""
    path = tmp_path_factory.mktemp("python")
    for name in CASES:
        architecture, model = stored(name)
        folder = path / name
        folder.mkdir()
        (folder / "network.py").write_text(to_python(architecture, model))
        save_file(model.state_dict(), folder / "weights.safetensors")
        images = torch.randn(3, *architecture.input_shape)
        save_file({"images": images}, folder / "images.safetensors")
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THIS_PROJECT]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_module_makes_the_network_without_this_project(name: str, written: Path) -> None:
    architecture, model = stored(name)
    images = load_file(written / name / "images.safetensors")["images"]
    output = load_file(written / name / "output.safetensors")["output"]
    with torch.no_grad():
        assert torch.equal(output, model(images))
    assert json.loads((written / name / "classes.json").read_text()) == list(architecture.classes)


def test_modules_pass_the_default_rules_of_ruff(written: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "."]
    done = subprocess.run(command, cwd=written, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CASES)
def test_the_same_network_gives_the_same_text(name: str, written: Path) -> None:
    architecture, model = stored(name)
    again = to_python(architecture, randomised(copy.deepcopy(model), seed=9).train())
    assert again == (written / name / "network.py").read_text()


def test_the_module_is_short_and_says_what_it_is(written: Path) -> None:
    architecture, _ = stored("digits-vgg")
    text = (written / "digits-vgg" / "network.py").read_text()
    assert len(text.splitlines()) < 60
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert docstring.startswith(f"VGG: {architecture.cost.params:,} parameters")
    assert "images N×1×8×8 and gives N×5 logits" in docstring
    assert "conv1=nn.Conv2d(1, 12, 3, padding=1, bias=False)," in text
    assert "        mean = features.mean((2, 3))\n" in text


def test_what_was_removed_is_not_in_the_module(written: Path) -> None:
    no_branch = (written / "no branch" / "network.py").read_text()
    assert "block1=Rewritten(shortcut=ZeroPadShortcut(stride=1))," in no_branch
    assert len(re.findall(r"=BasicBlock\d?\(", no_branch)) == 8
    no_block = (written / "no block" / "network.py").read_text()
    assert len(re.findall(r"=BasicBlock\d?\(", no_block)) == 8
    assert "pool=nn.AvgPool2d((2, 2), ceil_mode=True)," in no_block
    no_layer = (written / "no layer" / "network.py").read_text()
    assert "conv4=nn.Identity()" in no_layer
    assert "project=nn.Conv2d(" in no_layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types_are_kept(dtype: torch.dtype) -> None:
    architecture, model = stored("digits-vgg")
    architecture = dataclasses.replace(architecture, dtype=str(dtype).removeprefix("torch."))
    model = copy.deepcopy(model).to(dtype)
    text = to_python(architecture, model)
    assert f"    ).to({dtype})\n" in text
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    network = namespace["build"]()
    network.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 8, 8).to(dtype)
    assert torch.equal(network.eval()(images), model(images))
    model.classifier.float()
    with pytest.raises(ArchitectureError, match=r"its weights are of torch\."):
        to_python(architecture, model)


def test_files_for_other_programs_are_in_float32(tmp_path: Path) -> None:
    model = copy.deepcopy(stored("digits-vgg")[1]).double()
    images = torch.randn(2, 1, 8, 8)
    to_onnx(model, images.double(), tmp_path / "net.onnx")
    to_pt2(model, images.double(), tmp_path / "net.pt2")
    expected = model.float()(images)
    assert difference(in_onnxruntime(tmp_path / "net.onnx", images), expected) <= TOLERANCE
    assert difference(torch.export.load(tmp_path / "net.pt2").module()(images), expected) <= 1e-6


def as_python(model: nn.Module, shape: tuple[int, int, int] = (1, 2, 2)) -> str:
    example = torch.zeros(1, *shape)
    profile = WidthProfile({})
    architecture = Architecture(
        Builder("networks:small"), profile, shape, ("a", 'b"\n'), measure_cost(model, example)
    )
    return to_python(architecture, model)


def test_any_class_name_is_quoted() -> None:
    namespace: dict[str, object] = {}
    exec(as_python(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), namespace)
    assert namespace["CLASSES"] == ["a", 'b"\n']


def test_weights_that_are_shared_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="are one"):
        as_python(networks.tied(), (3, 8, 8))


def test_what_has_no_source_is_refused_by_name() -> None:
    secret = 3

    class Closed(Wired):
        def forward(self, images: Tensor) -> Tensor:
            x = super().forward(images)
            return x if x.sum() > secret else -x

    model = nn.Sequential(nn.Identity(), Closed(lambda x: x))
    with pytest.raises(ArchitectureError, match=r"Sequential\.1 cannot be written as Python: "):
        as_python(model)
