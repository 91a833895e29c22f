"""A folder that anyone can open, and that nothing damaged gets past."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from gating import random_plan
from networks import randomised, small
from safetensors.torch import load_file, save_file
from torch import nn

from copycat import Architecture, Builder, WidthProfile, build, load, read, save, verify
from pruning import remove_channels, trace
from pruning.errors import ArchitectureError, EspalierError, PlanError, TraceError
from pruning.structures import Structure, remove_structures

TRUST = ("networks",)
JSON, WEIGHTS = "architecture.json", "weights.safetensors"
BUILDER = Builder("networks:small", {"width": 7, "classes": 5})


def pruned_network() -> tuple[nn.Module, Architecture]:
    """A network that was 'trained' and pruned, and what is to be stored of it."""
    base = randomised(small(width=7, classes=5), seed=1)
    graph = trace(base, torch.zeros(1, 3, 8, 8))
    plan = random_plan(graph, seed=1)
    architecture = Architecture(
        builder=BUILDER,
        profile=WidthProfile(plan.widths),
        input_shape=(3, 8, 8),
        classes=("ant", "bee", "cat", "dog", "élan"),
        cost=graph.cost(plan.widths),
        provenance={"origin": "fine-tuned", "seeds": [1, 2], "accuracy": {"validation": 0.5}},
    )
    return remove_channels(base, graph, plan), architecture


def state_hash(model: nn.Module) -> str:
    """Over every bit of the weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture on disk, not to be changed."""
    path = tmp_path_factory.mktemp("exports") / "small"
    model, architecture = pruned_network()
    save(path, architecture, model)
    return path


@pytest.fixture
def copied(stored: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(stored, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((path / JSON).read_text())
    change(content)
    (path / JSON).write_text(json.dumps(content))


# Saving and loading.


def test_the_round_trip_is_exact_to_the_bit(stored: Path) -> None:
    model, architecture = pruned_network()
    loaded = load(stored, trust=TRUST)
    assert state_hash(loaded) == state_hash(model)
    assert not any(module.training for module in loaded.modules())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), model.eval()(images))
    assert dataclasses.replace(read(stored), probe=()) == architecture


def test_what_is_returned_is_what_is_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    returned = save(tmp_path / "new" / "small", architecture, model)
    assert read(tmp_path / "new" / "small") == returned
    assert len(returned.probe) == 5
    assert verify(tmp_path / "new" / "small", trust=TRUST) == returned


def test_the_folder_holds_two_files_that_all_may_read(stored: Path) -> None:
    assert sorted(file.name for file in stored.iterdir()) == [JSON, WEIGHTS]
    assert stored.stat().st_mode & 0o777 == 0o755
    assert [file.name for file in stored.parent.iterdir()] == ["small"]
    content = json.loads((stored / JSON).read_text())
    assert content["format_version"] == 1
    assert "fused multiply-add is one FLOP" in content["cost"]["convention"]
    assert set(load_file(stored / WEIGHTS)) == set(pruned_network()[0].state_dict())


@pytest.mark.parametrize(
    "removed", [Structure("branch", "block"), Structure("block", "block")], ids=str
)
def test_removed_structures_are_stored_and_removed_again(
    tmp_path: Path, removed: Structure
) -> None:
    profile = WidthProfile({"stem": 3}, (removed,))
    base, example = networks.squeeze_excitation(), torch.zeros(1, 3, 8, 8)
    model = randomised(build(base, profile, example))
    cost = trace(remove_structures(base, example, [removed]), example).cost({"stem": 3})
    architecture = Architecture(
        Builder("networks:squeeze_excitation"), profile, (3, 8, 8), tuple("abcd"), cost
    )
    save(tmp_path / "short", architecture, model)
    assert verify(tmp_path / "short", trust=TRUST).profile == profile
    assert state_hash(load(tmp_path / "short", trust=TRUST)) == state_hash(model)
    edit(tmp_path / "short", lambda content: content.update(removed={removed.kind: ["black"]}))
    with pytest.raises(PlanError, match=f"this network has no {removed.kind} 'black'"):
        load(tmp_path / "short", trust=TRUST)


def test_saving_does_not_change_the_mode(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    model.train()
    model.bn1.eval()
    save(tmp_path / "small", architecture, model)
    assert model.training
    assert not model.bn1.training


def test_an_architecture_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    path = tmp_path / "small"
    path.mkdir()
    save(path, architecture, model)  # an empty folder
    again = dataclasses.replace(architecture, provenance={"origin": "again"})
    save(path, again, model)
    assert read(path).provenance == {"origin": "again"}

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("…")
    for taken in (precious, precious / "thesis.tex"):
        with pytest.raises(ArchitectureError, match="exists and is no architecture"):
            save(taken, architecture, model)
    assert (precious / "thesis.tex").read_text() == "…"


@pytest.mark.parametrize("change", [{"flops": 1}, {"params": 1}])
def test_nothing_is_written_when_the_cost_is_wrong(tmp_path: Path, change: dict[str, int]) -> None:
    model, architecture = pruned_network()
    wrong = dataclasses.replace(architecture, cost=dataclasses.replace(architecture.cost, **change))
    message = rf"fvcore counts {architecture.cost.flops:,} FLOPs and .*: nothing was stored"
    with pytest.raises(ArchitectureError, match=message):
        save(tmp_path / "small", wrong, model)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_writing_fails(tmp_path: Path) -> None:
    """And what was there before stays."""
    model, architecture = pruned_network()
    save(tmp_path / "small", architecture, model)
    unwritable = dataclasses.replace(architecture, provenance={"when": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path / "small", unwritable, model)
    assert [file.name for file in tmp_path.iterdir()] == ["small"]
    assert read(tmp_path / "small").provenance == architecture.provenance


def test_the_example_input_is_one_image() -> None:
    _, architecture = pruned_network()
    assert torch.equal(architecture.example_input, torch.zeros(1, 3, 8, 8))


LOADING = """
import hashlib, sys
for name in ("ray", "optuna", "mlflow"):
    sys.modules[name] = None  # importing it raises
import copycat
copycat.verify(sys.argv[1], trust=["networks"])
model = copycat.load(sys.argv[1], trust=["networks"])
digest = hashlib.sha256()
for name, value in model.state_dict().items():
    digest.update(name.encode() + value.numpy().tobytes())
print(digest.hexdigest(), "search" in sys.modules, "mlflow_server" in sys.modules)
"""


def test_copycat_and_torch_are_enough_to_load(stored: Path, tmp_path: Path) -> None:
    """In a process that can't import Ray, Optuna or MLflow, and where no warning appears."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADING, str(stored)],
        env={**os.environ, "PYTHONPATH": str(Path(networks.__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.stderr == ""
    assert result.stdout.split() == [state_hash(pruned_network()[0]), "False", "False"]


# Trust.


def test_an_untrusted_builder_is_refused(stored: Path) -> None:
    message = r"built by 'networks:small' .*not trusted: pass trust=\['networks'\] if it is yours"
    for trust in ((), ("network",), ("networks.small",), ("",)):
        with pytest.raises(ArchitectureError, match=message):
            load(stored, trust=trust)
        with pytest.raises(ArchitectureError, match=message):
            verify(stored, trust=trust)


def test_an_untrusted_module_is_not_even_imported(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise AssertionError('it ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(copied, lambda content: content["builder"].update(target="evil:make"))
    with pytest.raises(ArchitectureError, match="not trusted"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("torchvision.models._api:load_state_dict_from_url", "torch.hub"),
        ("torchvision.models.resnet:partial", "functools"),
        ("torchvision.models:resnet.nn.Linear", "torch.nn.modules.linear"),
    ],
)
def test_what_a_trusted_module_merely_imports_is_refused(
    copied: Path, target: str, home: str
) -> None:
    """The first of these downloads a file and unpickles it."""
    edit(copied, lambda content: content["builder"].update(target=target))
    with pytest.raises(ArchitectureError, match=rf"of '{home}', which is not trusted"):
        load(copied)


def test_only_what_makes_networks_runs_without_being_named(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`search.models` also holds a helper that imports whatever module it is asked for."""
    (tmp_path / "beside_the_file.py").write_text("raise AssertionError('it ran')\n")
    monkeypatch.chdir(tmp_path)
    arguments = {"name": "beside_the_file:make", "num_classes": 2, "in_channels": 3}
    builder = {"target": "search.models:resolve", "arguments": arguments}
    edit(copied, lambda content: content.update(builder=builder))
    with pytest.raises(ArchitectureError, match="models:resolve', which makes no networks"):
        load(copied)


@pytest.mark.parametrize(
    ("target", "shape", "arguments"),
    [
        ("search.models:digits_resnet", (1, 8, 8), {}),
        ("search.models:wide_resnet", (3, 8, 8), {"depth": 10, "width": 1}),
        ("torchvision.models:squeezenet1_1", (3, 32, 32), {"num_classes": 10}),
    ],
)
def test_networks_of_the_zoo_and_of_torchvision_need_no_trust(
    tmp_path: Path, target: str, shape: tuple[int, int, int], arguments: dict[str, object]
) -> None:
    builder = Builder(target, arguments)
    model, profile = builder(), WidthProfile({})
    cost = trace(model, torch.zeros(1, *shape)).cost()
    architecture = Architecture(builder, profile, shape, tuple("0123456789"), cost)
    save(tmp_path / "net", architecture, model)
    assert state_hash(load(tmp_path / "net")) == state_hash(model)


# Damage, one kind at a time.


def test_a_folder_without_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"holds no architecture.json: give an exported"):
        read(tmp_path)
    with pytest.raises(ArchitectureError, match=r"holds no architecture.json"):
        load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not readable"),
        ("{", "is not readable"),
        ("[" * 100_000, "is not readable"),
        ("[]", "has format version None; this version of Espalier reads 1"),
        ("{}", "has format version None; this version of Espalier reads 1"),
        ('{"format_version": 2}', "has format version 2; this version of Espalier reads 1"),
        ('{"format_version": 1}', "is damaged: KeyError: 'input_shape'"),
    ],
)
def test_json_that_is_refused(copied: Path, text: str, message: str) -> None:
    (copied / JSON).write_text(text)
    with pytest.raises(ArchitectureError, match=message):
        read(copied)


def test_json_in_another_encoding(copied: Path) -> None:
    (copied / JSON).write_bytes(b"\xff\xfe{")
    with pytest.raises(ArchitectureError, match="is not readable"):
        read(copied)


@pytest.mark.parametrize(
    "key", ["builder", "widths", "input_shape", "classes", "cost", "provenance", "probe"]
)
def test_missing_keys(copied: Path, key: str) -> None:
    edit(copied, lambda content: content.pop(key))
    with pytest.raises(ArchitectureError, match=f"is damaged: .*{key}"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"widths": {"conv1": 3, "conv2": 2}}, ArchitectureError, "its widths make .*: edited or"),
        ({"widths": {"conv1": 2_000_000_000}}, ArchitectureError, "its widths make .*: edited or"),
        ({"widths": {"conv1": 0}}, ArchitectureError, "is damaged: ProfileError: the width of"),
        ({"widths": {"conv9": 3}}, PlanError, "no channel group 'conv9': did you mean"),
        ({"widths": {"head.fc": 3}}, PlanError, "'head.fc' is pinned"),
        ({"input_shape": [3, 8]}, ArchitectureError, "is damaged: ValueError: not enough values"),
        ({"input_shape": [3, 0, 8]}, ArchitectureError, "is damaged: .*input_shape is no image's"),
        ({"input_shape": [3, 10**9, 10**9]}, ArchitectureError, "input_shape is no image's"),
        ({"input_shape": [3, math.inf, 8]}, ArchitectureError, "is damaged: OverflowError"),
        ({"input_shape": [4, 8, 8]}, TraceError, "cannot run on an example input of 1×4×8×8"),
        ({"cost": {"flops": 1}}, ArchitectureError, "is damaged: KeyError: 'params'"),
        ({"probe": {"output": "x"}}, ArchitectureError, "is damaged: ValueError"),
    ],
)
def test_values_that_are_refused(
    copied: Path, change: dict[str, Any], error: type[EspalierError], message: str
) -> None:
    edit(copied, lambda content: content.update(change))
    with pytest.raises(error, match=message):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_weights(copied: Path, keep: int) -> None:
    whole = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(whole[:keep])
    message = r"weights.safetensors in .* does not fit its architecture.json"
    with pytest.raises(ArchitectureError, match=message):
        load(copied, trust=TRUST)


def test_missing_weights(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    with pytest.raises(ArchitectureError, match="does not fit"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("change", ["missing", "extra", "reshaped"])
def test_weights_of_another_network(copied: Path, change: str) -> None:
    tensors = load_file(copied / WEIGHTS)
    if change == "missing":
        del tensors["bn1.bias"]
    elif change == "extra":
        tensors["bn3.bias"] = torch.zeros(3)
    else:
        tensors["bn1.bias"] = torch.zeros(1)
    save_file(tensors, copied / WEIGHTS)
    with pytest.raises(ArchitectureError, match="does not fit"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("name", ["conv1.weight", "bn2.running_var", "head.fc.bias"])
def test_tampered_weights_do_not_pass_verification(copied: Path, name: str) -> None:
    tensors = load_file(copied / WEIGHTS)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, copied / WEIGHTS)
    load(copied, trust=TRUST)
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        verify(copied, trust=TRUST)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_do_not_pass_verification(copied: Path, value: float) -> None:
    tensors = load_file(copied / WEIGHTS)
    tensors["head.fc.bias"][2] = value
    save_file(tensors, copied / WEIGHTS)
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        verify(copied, trust=TRUST)


@pytest.mark.parametrize("output", [[], [0.0], [math.nan] * 5])
def test_a_wrong_probe_does_not_pass_verification(copied: Path, output: list[float]) -> None:
    edit(copied, lambda content: content["probe"].update(output=output))
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        verify(copied, trust=TRUST)


def test_a_wrong_count_does_not_pass_verification(copied: Path) -> None:
    flops = read(copied).cost.flops
    edit(copied, lambda content: content["cost"].update(flops=flops - 1))
    with pytest.raises(
        ArchitectureError, match=f"says {flops - 1:,} flops, fvcore counts {flops:,}"
    ):
        verify(copied, trust=TRUST)


# Damage of any kind.

HARMLESS = ("provenance", "classes", "convention", "seed")
VALUES: tuple[Any, ...] = (None, -1, 0, 2.5, 10**30, math.inf, "x", [], {}, [[1]], {"a": None})


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything inside nested lists and mappings."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def test_no_wrong_value_gets_past_verification(copied: Path) -> None:
    """Each place in the file, each wrong value: an error for people, or none if it is harmless."""
    text = (copied / JSON).read_text()
    num_mutations = 0
    for path in places(json.loads(text)):
        for value in VALUES:
            content = json.loads(text)
            inside = content
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            (copied / JSON).write_text(json.dumps(content))
            num_mutations += 1
            if set(path) & set(HARMLESS):
                _verify_or_refuse(copied)
            else:
                with pytest.raises(EspalierError):
                    verify(copied, trust=TRUST)
    assert num_mutations > 300


def _verify_or_refuse(path: Path) -> None:
    """Any exception but those for people is passed on and fails the test."""
    with contextlib.suppress(EspalierError):
        verify(path, trust=TRUST)


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_no_damaged_byte_ends_in_another_error(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    generator = random.Random(0)
    for number in range(60):
        damaged = bytearray(whole)
        # the header of the weights is where most can go wrong
        reach = len(whole) if name == JSON or number % 3 == 0 else 600
        for _ in range(generator.randint(1, 3)):
            position = generator.randrange(reach)
            kind = generator.randrange(4)
            if kind == 0:
                damaged[position] = generator.randrange(256)
            elif kind == 1:
                del damaged[position : position + generator.randint(1, 9)]
            elif kind == 2:
                digits = [i for i in range(reach) if damaged[i : i + 1].isdigit()]
                damaged[generator.choice(digits)] = generator.choice(b"0123456789")
            else:
                damaged[position:position] = bytes(generator.choices(b'0123456789{}[]",:e-', k=2))
        (copied / name).write_bytes(damaged)
        _verify_or_refuse(copied)
