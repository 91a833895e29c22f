"""A folder that anyone can open: what is stored, and what comes back."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import networks
import pytest
import torch
from networks import randomised
from safetensors.torch import load_file, save_file
from stored_architectures import JSON, TRUST, WEIGHTS, edit, pruned_network, state_hash
from torch import nn

from copycat import Architecture, Builder, WidthProfile, build, load, read, save, verify
from copycat.architecture import folder as architecture_folder
from copycat.architecture.whole_folder import folder_written_whole, stored_names
from pruning import KeepPlan, remove_channels, trace
from pruning.errors import ArchitectureError
from pruning.structure_removal.structures import Structure, remove_structures


def test_the_round_trip_is_exact_to_the_bit(stored: Path) -> None:
    model, architecture = pruned_network()
    loaded = load(stored, trust=TRUST)
    assert state_hash(loaded) == state_hash(model)
    assert not any(module.training for module in loaded.modules())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), model.eval()(images))
    assert dataclasses.replace(read(stored), probe=(), weights_sha256="") == architecture


def test_bytes_are_counted_not_believed(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    tensors = model.half().state_dict().values()
    halved = architecture.cost.peak_activation_bytes // 2
    cost = dataclasses.replace(architecture.cost, weight_bytes=1)
    stored = save(tmp_path / "net", dataclasses.replace(architecture, cost=cost), model)
    assert stored.cost.weight_bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert stored.cost.peak_activation_bytes == halved
    again = verify(tmp_path / "net", trust=TRUST).cost
    assert (again.weight_bytes, again.peak_activation_bytes) == (stored.cost.weight_bytes, halved)
    for name in ("weight_bytes", "peak_activation_bytes"):
        save(tmp_path / "net", architecture, model)
        edit(tmp_path / "net", lambda content, name=name: content["cost"].update({name: 2}))
        with pytest.raises(ArchitectureError, match=f"says {name} = 2, it is "):
            verify(tmp_path / "net", trust=TRUST)


def test_what_is_returned_is_what_is_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    returned = save(tmp_path / "new" / "small", architecture, model)
    assert read(tmp_path / "new" / "small") == returned
    assert len(returned.probe) == 5
    assert verify(tmp_path / "new" / "small", trust=TRUST) == returned


def test_wrappers_and_memory_formats_are_not_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    plain = save(tmp_path / "plain", architecture, model)
    wrapped = nn.DataParallel(model.to(memory_format=torch.channels_last))
    stored = save(tmp_path / "wrapped", architecture, wrapped)
    assert (stored.weights_sha256, stored.cost) == (plain.weights_sha256, plain.cost)
    assert verify(tmp_path / "wrapped", trust=TRUST) == stored


def test_the_folder_holds_two_files_that_all_may_read(stored: Path) -> None:
    assert sorted(file.name for file in stored.iterdir()) == [JSON, WEIGHTS]
    assert stored.stat().st_mode & 0o777 == 0o755
    assert [file.stat().st_mode & 0o777 for file in stored.iterdir()] == [0o644, 0o644]
    assert [file.name for file in stored.parent.iterdir()] == ["small"]
    content = json.loads((stored / JSON).read_text())
    assert content["format_version"] == 2
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
    with pytest.raises(ArchitectureError, match=f"this network has no {removed.kind} 'black'"):
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
    for value, reason in ((object(), "not JSON serializable"), (math.nan, "not JSON compliant")):
        unwritable = dataclasses.replace(architecture, provenance={"when": value})
        with pytest.raises(ArchitectureError, match=reason):
            save(tmp_path / "small", unwritable, model)
    assert [file.name for file in tmp_path.iterdir()] == ["small"]
    assert read(tmp_path / "small").provenance == architecture.provenance


def test_the_example_input_is_one_image() -> None:
    _, architecture = pruned_network()
    assert torch.equal(architecture.example_input, torch.zeros(1, 3, 8, 8))


LOADING = """
import sys
for name in ("ray", "optuna", "mlflow", "fvcore"):
    sys.modules[name] = None  # importing it raises
import torch
from safetensors.torch import load_file, save_file
import copycat
torch.set_num_threads(1)
folder, images, outputs = sys.argv[1:]
try:
    import ray
except ImportError:
    print("no ray")
model = copycat.load(folder, trust=["networks"])
with torch.no_grad():
    save_file({"outputs": model(load_file(images)["images"])}, outputs)
print("search" in sys.modules, "mlflow_server" in sys.modules)
"""


def test_copycat_and_torch_are_enough_to_load(stored: Path, tmp_path: Path) -> None:
    """In a process that can't import Ray, Optuna or MLflow, and where no warning appears.

    What it computes equals what the network computed before it was stored, to the bit.
    """
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    save_file({"images": images}, tmp_path / "images")
    files = [str(tmp_path / "images"), str(tmp_path / "outputs")]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADING, str(stored), *files],
        env={**os.environ, "PYTHONPATH": str(Path(networks.__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["no ray", "False False"]
    model = pruned_network()[0].eval()
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "outputs")["outputs"], model(images))


@pytest.mark.parametrize("field", ["flops", "params"])
def test_loading_compares_the_cost(copied: Path, field: str) -> None:
    """Without fvcore, which only has the last word where the closed form differs."""
    wrong = getattr(read(copied).cost, field) - 1
    edit(copied, lambda content: content["cost"].update({field: wrong}))
    with pytest.raises(ArchitectureError, match=f"says .*{wrong:,}.*, its widths make"):
        load(copied, trust=TRUST)


def test_a_graph_that_is_known_saves_the_trace(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is loaded by it is held against the file all the same."""
    architecture = read(stored)
    graph = trace(architecture.builder(), architecture.example_input)
    expected = load(stored, trust=TRUST).state_dict()
    monkeypatch.setattr(architecture_folder, "graph_for", None)
    found = load(stored, trust=TRUST, graph=graph).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert verify(stored, trust=TRUST, graph=graph) == architecture


# Dtypes.


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "float16"])
def test_dtypes_come_back(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    model, architecture = pruned_network(dtype)
    returned = save(tmp_path / "net", architecture, model)
    assert returned.dtype == name
    assert returned.example_input.dtype == dtype
    loaded = load(tmp_path / "net", trust=TRUST)
    assert state_hash(loaded) == state_hash(model)
    images = torch.randn(2, 3, 8, 8).to(dtype)
    assert torch.equal(loaded(images), model.eval()(images))
    assert verify(tmp_path / "net", trust=TRUST) == returned
    assert not list(tmp_path.glob(".*"))


def test_the_probe_of_coarse_dtypes_still_tells_networks_apart(tmp_path: Path) -> None:
    model, architecture = pruned_network(torch.bfloat16)
    stored = save(tmp_path / "net", architecture, model)
    shifted = [value + 0.2 * max(map(abs, stored.probe)) for value in stored.probe]
    edit(tmp_path / "net", lambda content: content["probe"].update(output=shifted))
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        load(tmp_path / "net", trust=TRUST)


class Mixed(nn.Module):
    """A head that computes in twice the precision, and two names for one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3)).to(self.head.weight.dtype)
        return self.again(self.head(x))


def test_dtypes_that_differ_inside_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "mixed", Mixed, raising=False)
    Mixed.__module__ = "networks"
    model = Mixed()
    model.head.double()
    model.again.double()
    cost = trace(model, torch.zeros(1, 1, 5, 5)).cost()
    architecture = Architecture(
        Builder("networks:mixed"), WidthProfile({}), (1, 5, 5), tuple("abcd"), cost
    )
    assert save(tmp_path / "net", architecture, model).dtype == "float32"
    loaded = load(tmp_path / "net", trust=TRUST)
    assert state_hash(loaded) == state_hash(model)
    assert loaded.again.weight is loaded.head.weight


def test_dtypes_that_cannot_be_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    model.conv1.weight.data = model.conv1.weight.data.to(torch.float8_e5m2)
    with pytest.raises(ArchitectureError, match=r"weights must be of float64, .*, got torch.float"):
        save(tmp_path / "net", architecture, model)
    assert list(tmp_path.iterdir()) == []


# What is not stored.


def test_outputs_that_are_no_numbers_are_not_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    model.head.fc.bias.data[1] = math.nan
    with pytest.raises(ArchitectureError, match="outputs are not finite"):
        save(tmp_path / "net", architecture, model)
    assert list(tmp_path.iterdir()) == []


def test_classes_that_are_not_the_outputs_are_not_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    wrong = dataclasses.replace(architecture, classes=("ant", "bee"))
    with pytest.raises(ArchitectureError, match="has 5 outputs and 2 names of classes"):
        save(tmp_path / "net", wrong, model)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    (tmp_path / "file").write_text("…")
    with pytest.raises(ArchitectureError, match=r"cannot write .*/file/net: "):
        save(tmp_path / "file" / "net", architecture, model)


# Replacing, and being killed while at it.

KILLED = """
import os, sys, tempfile, traceback, torch
torch.set_num_threads(1)  # no threads that a fork would lose
import networks
from copycat import load, read, save
def save_and_die(path, deadly_call):
    replace, calls = os.replace, []
    def replace_or_die(*names):
        calls.append(names)
        if len(calls) == deadly_call:
            os._exit(9)
        replace(*names)
    os.replace = replace_or_die
    model = load(path, trust=["networks"])
    model.conv1.weight.data *= 2
    save(path, read(path), model)
is_warm = False
for line in sys.stdin:
    path, call = line.rstrip().rsplit(" ", 1)
    if not is_warm:  # what is imported and cached here is so in every child
        with tempfile.TemporaryDirectory() as folder:
            save(folder + "/net", read(path), load(path, trust=["networks"]))
        is_warm = True
    child = os.fork()
    if not child:
        try:
            save_and_die(path, int(call))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Saves an architecture in a process of its own for each line, which may die at a rename."""

SaveAndDie = Callable[[Path, int], int]


@pytest.fixture(scope="module")
def save_and_die() -> Iterator[SaveAndDie]:
    """Saves over a folder and dies at the rename of this number; the exit status.

    One process that has imported torch once forks for each of them.
    """
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": _with_networks()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def call(path: Path, deadly_call: int) -> int:
            print(path, deadly_call, file=stdin, flush=True)
            return int(stdout.readline())

        yield call
        stdin.close()


def _with_networks() -> str:
    folders = (str(Path(networks.__file__).parent), os.environ.get("PYTHONPATH", ""))
    return os.pathsep.join(filter(None, folders))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_being_killed_while_replacing_loses_nothing(
    copied: Path, call: int, save_and_die: SaveAndDie
) -> None:
    """Before the old folder is set aside, between that and the new one's arrival, and not."""
    before = state_hash(load(copied, trust=TRUST))
    assert save_and_die(copied, call) == (9 if call < 3 else 0)
    assert copied.exists() == (call != 2)
    assert (state_hash(load(copied, trust=TRUST)) == before) == (call < 3)
    verify(copied, trust=TRUST)

    model, architecture = pruned_network()
    again = dataclasses.replace(architecture, provenance={"origin": "again"})
    save(copied, again, model)
    assert read(copied).provenance == {"origin": "again"}
    assert state_hash(load(copied, trust=TRUST)) == before
    assert not (copied.parent / ".copy.replaced").exists()


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("way", ["load", "save", "list"])
def test_what_the_killed_leave_is_put_in_order(
    copied: Path, call: int, way: str, save_and_die: SaveAndDie
) -> None:
    """By whoever comes next, also for a folder of another name that begins alike."""
    model, architecture = pruned_network()
    neighbour = copied.with_name("copy.saving-net")
    save(neighbour, architecture, model)
    notes = copied.with_name(".copy-notes")
    notes.mkdir()
    before = state_hash(load(copied, trust=TRUST))
    num_entries = len(list(copied.parent.iterdir()))
    assert save_and_die(copied, call) == 9
    assert len(list(copied.parent.iterdir())) == num_entries + 1, "nothing was left behind"
    if way == "load":
        load(copied, trust=TRUST)
    elif way == "save":
        save(copied, architecture, model)
    else:
        assert stored_names(copied.parent) == ["copy", "copy.saving-net"]
    assert [entry.name for entry in copied.parent.glob(".*")] == [".copy-notes"]
    assert state_hash(load(copied, trust=TRUST)) == before
    verify(neighbour, trust=TRUST)


def test_a_folder_that_is_being_written_is_left_alone(copied: Path) -> None:
    """Whoever reads meanwhile finds the old one, also between the two renames."""
    before = state_hash(load(copied, trust=TRUST))
    with folder_written_whole(copied.resolve()) as folder:
        aside = copied.with_name(".copy.replaced")
        copied.rename(aside)
        assert state_hash(load(copied, trust=TRUST)) == before
        assert stored_names(copied.parent) == []
        assert folder.is_dir()
        assert aside.is_dir()
        assert not copied.exists()
        aside.rename(copied)
        for name in (JSON, WEIGHTS):
            (folder / name).write_bytes((copied / name).read_bytes())
    assert [entry.name for entry in copied.parent.iterdir()] == ["copy"]


def test_a_failed_replacement_is_taken_back(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def fail_once(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2:
            raise OSError("disk on fire")
        replace(*names)

    monkeypatch.setattr(os, "replace", fail_once)
    model, architecture = pruned_network()
    changed = dataclasses.replace(architecture, provenance={"origin": "changed"})
    with pytest.raises(ArchitectureError, match=r"cannot write .*: disk on fire"):
        save(copied, changed, model)
    assert read(copied).provenance == architecture.provenance
    assert [file.name for file in copied.parent.iterdir()] == ["copy"]


def test_the_target_of_a_link_is_replaced(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied)
    model, architecture = pruned_network()
    changed = dataclasses.replace(architecture, provenance={"origin": "changed"})
    save(tmp_path / "link", changed, model)
    assert (tmp_path / "link").is_symlink()
    assert read(copied).provenance == {"origin": "changed"}


# What was narrowed inexactly.


def inexact_network(**stored: Any) -> tuple[nn.Module, Architecture]:
    """A network with a normalisation over all channels, two of which have gone."""
    base, example = networks.layer_normalised(), torch.zeros(1, 3, 8, 8)
    graph = trace(base, example, exact=False)
    plan = KeepPlan({"first": (0, 2, 3, 5), "second": (0, 1)})
    profile, builder = WidthProfile(plan.widths), Builder("networks:layer_normalised")
    cost = graph.cost(plan.widths)
    architecture = Architecture(builder, profile, (3, 8, 8), tuple("abcd"), cost, **stored)
    return remove_channels(base, graph, plan), architecture


@pytest.mark.parametrize("inexact", [{}, {"first": "it is normalised"}], ids=["plain", "marked"])
def test_what_was_narrowed_inexactly_is_rebuilt(tmp_path: Path, inexact: dict[str, str]) -> None:
    """Whether or not whoever stored it has marked it."""
    model, architecture = inexact_network(inexact=inexact)
    save(tmp_path / "net", architecture, model)
    found = verify(tmp_path / "net", trust=TRUST)
    assert found.inexact == inexact
    assert state_hash(load(tmp_path / "net", trust=TRUST)) == state_hash(model)
    content = json.loads((tmp_path / "net" / JSON).read_text())
    assert content.get("inexact", {}) == inexact
    jsonschema.validate(content, schema())


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ([], "inexact must be a JSON object"),
        ({"first": 1}, "inexact.first must be a text"),
        ({"other": "?"}, "inexact must be reasons by names of groups that have widths"),
    ],
)
def test_damaged_marks_are_refused(tmp_path: Path, mark: object, message: str) -> None:
    model, architecture = inexact_network()
    save(tmp_path / "net", architecture, model)
    edit(tmp_path / "net", lambda content: content.update(inexact=mark))
    with pytest.raises(ArchitectureError, match=message):
        read(tmp_path / "net")


# The schema, and older formats.


def schema() -> dict[str, Any]:
    text = (importlib.resources.files("copycat") / "architecture.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("removed", [(), (Structure("block", "block"),)], ids=["whole", "short"])
def test_what_is_saved_meets_the_schema(
    tmp_path: Path, removed: tuple[Structure, ...], stored: Path
) -> None:
    profile = WidthProfile({"stem": 3}, removed)
    base, example = networks.squeeze_excitation(), torch.zeros(1, 3, 8, 8)
    model = randomised(build(base, profile, example))
    cost = trace(model, example).cost()
    builder = Builder("networks:squeeze_excitation")
    save(tmp_path / "a", Architecture(builder, profile, (3, 8, 8), tuple("abcd"), cost), model)
    validator = jsonschema.Draft202012Validator(schema())
    for folder in (stored, tmp_path / "a"):
        assert list(validator.iter_errors(json.loads((folder / JSON).read_text()))) == []


def test_editors_may_be_pointed_at_the_schema(copied: Path) -> None:
    content = json.loads((copied / JSON).read_text())
    content = {"$schema": "architecture.schema.json", **content}
    jsonschema.validate(content, schema())
    (copied / JSON).write_text(json.dumps(content, indent=1))
    assert verify(copied, trust=TRUST)
