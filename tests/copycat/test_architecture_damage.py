"""That nothing damaged gets past, and that each damage ends in one error for people."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.resources
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from stored_architectures import JSON, TRUST, WEIGHTS, edit, exchange_weights, seal, state_hash

from copycat import load, read, verify
from copycat.architecture import folder as folder_module
from pruning.errors import ArchitectureError

# One kind at a time: architecture.json.


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
        ("[]", "is damaged: it must hold one JSON object"),
        ("{}", "has format version None, this Espalier reads 2: export"),
        ('{"format_version": "2"}', "has format version '2', this Espalier reads 2: export"),
        ('{"format_version": true}', "has format version True, this Espalier reads 2: export"),
        ('{"format_version": 0}', "has format version 0, this Espalier reads 2: export"),
        ('{"format_version": 2.0}', "has format version 2.0, this Espalier reads 2: export"),
        ('{"format_version": 3}', "has format version 3, this Espalier reads 2: export"),
        ('{"format_version": 1}', "has format version 1, this Espalier reads 2: export"),
        ('{"format_version": 2}', "is damaged: the file lacks builder, .*, checksum"),
        ('{"format_version": NaN}', "is not readable as JSON: NaN is no number in JSON"),
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


def test_json_without_end(copied: Path) -> None:
    with (copied / JSON).open("ab") as file:
        file.truncate(2**26 + 1)  # no disk is taken
    with pytest.raises(ArchitectureError, match="is damaged: it is over 67,108,864 bytes"):
        read(copied)


KEYS = (
    *("builder", "widths", "input_shape", "dtype", "classes", "cost", "provenance", "probe"),
    *("weights", "checksum", "format_version"),
)


@pytest.mark.parametrize("key", KEYS)
def test_missing_keys(copied: Path, key: str) -> None:
    content = json.loads((copied / JSON).read_text())
    del content[key]
    (copied / JSON).write_text(json.dumps(content))
    wanted = "has format version None" if key == "format_version" else f"the file lacks {key}"
    with pytest.raises(ArchitectureError, match=wanted):
        load(copied, trust=TRUST)


def test_keys_that_nobody_knows(copied: Path) -> None:
    edit(copied, lambda content: content.update(width={"conv1": 3}))
    with pytest.raises(ArchitectureError, match="is damaged: the file must not hold width"):
        load(copied, trust=TRUST)
    edit(copied, lambda content: (content.pop("width"), content["probe"].update(sede=0)))
    with pytest.raises(ArchitectureError, match="is damaged: probe must not hold sede"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("change", ["classes", "provenance", "checksum"])
def test_edits_break_the_checksum(copied: Path, change: str) -> None:
    content = json.loads((copied / JSON).read_text())
    if change == "classes":
        content["classes"][0] = "aunt"
    elif change == "provenance":
        content["provenance"]["accuracy"]["validation"] = 0.6
    else:
        content["checksum"] = "0" * 64
    (copied / JSON).write_text(json.dumps(content))
    with pytest.raises(ArchitectureError, match="was damaged or edited: its checksum does not"):
        read(copied)


def _tensor(**form: object) -> dict[str, object]:
    return {"shape": [1, 3, 8, 8], **form}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": {"conv1": 3, "conv2": 2}}, "its widths make .*: edited or"),
        ({"widths": {"conv1": 2_000_000_000}}, "its widths make .*: edited or"),
        ({"widths": {"conv1": 0}}, "is damaged: the width of"),
        ({"widths": {"conv9": 3}}, "cannot be rebuilt: .*no channel group 'conv9': did you mean"),
        ({"widths": {"head.fc": 3}}, "cannot be rebuilt: .*'head.fc' is pinned"),
        ({"removed": {"brunch": []}}, 'is damaged: "removed" must hold lists of names'),
        ({"removed": {"block": ["bl"]}}, "cannot be rebuilt: this network has no block 'bl'"),
        ({"input_shape": [3, 8]}, "cannot run on an example input of 1×3×8"),
        ({"input_shape": []}, "is damaged: input_shape must be those of tensors of 1 to 268,435"),
        ({"input_shape": [3, 0, 8]}, "is damaged: input_shape must be of whole numbers from 1"),
        ({"input_shape": [3, 10**9, 10**9]}, "input_shape must be those of tensors of 1 to 268,4"),
        ({"input_shape": [3, 8.0, 8]}, r"input_shape must be of whole numbers from 1, got 8\.0"),
        ({"input_shape": [1] * 64}, "input_shape must be of at most 63 sizes"),
        ({"input_shape": 8}, "input_shape must be those of tensors"),
        ({"input_shape": {"tuple": [8, "x", None]}}, "input_shape must be those of tensors"),
        ({"input_shape": {"set": []}}, "must be sizes, or an object with shape and dtype, tuple"),
        ({"input_shape": {"list": [], "tuple": []}}, "must be sizes, or an object with shape"),
        ({"input_shape": {"shape": [1, 3], "dtype": "int128"}}, "input_shape must be of dtypes"),
        ({"input_shape": _tensor(dtype="bool", highest=2)}, "up to 1 where it is bool, got 2"),
        ({"input_shape": _tensor(dtype="float32", highest=1)}, "up to 0 where it is float32"),
        ({"input_shape": _tensor(dtype="int8", highest=127)}, "up to 126 where it is int8"),
        ({"input_shape": _tensor(dtype="int64", highest=-1)}, "got -1"),
        ({"input_shape": _tensor(dtype="int64", highest=True)}, "got True"),
        ({"builder": None}, r"what makes it: in Python, copycat\.load\(path, model=…\)"),
        ({"input_shape": [3, math.inf, 8]}, "Infinity is no number in JSON"),
        ({"input_shape": [4, 8, 8]}, "cannot run on an example input of 1×4×8×8"),
        ({"dtype": "float8"}, r"dtype must be one of \('float64', .*got 'float8'"),
        ({"dtype": []}, r"dtype must be one of"),
        ({"dtype": "float64"}, "does not reproduce|cannot run on an input"),
        ({"cost": {"flops": 1}}, "is damaged: cost lacks params, convention"),
        ({"probe": {"seed": 0, "output": "x"}}, "probe.output must be a list of numbers"),
        ({"probe": {"seed": 1, "output": []}}, "probe.seed must be one of"),
        ({"weights": {"sha256": ""}}, "weights.sha256 must be 64 hexadecimal digits"),
        ({"classes": "abcde"}, "classes must be a list of names"),
        ({"builder": {"target": "networks:small", "arguments": []}}, "arguments must be a JSON"),
        ({"builder": {"target": "networks:small", "arguments": {"width": "x"}}}, "small failed: "),
    ],
)
def test_values_that_are_refused(copied: Path, change: dict[str, Any], message: str) -> None:
    edit(copied, lambda content: content.update(change))
    with pytest.raises(ArchitectureError, match=message):
        load(copied, trust=TRUST)


# One kind at a time: weights.safetensors.


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_weights(copied: Path, keep: int) -> None:
    whole = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(whole[:keep])
    message = "was damaged or exchanged: its checksum is not the one in architecture.json"
    with pytest.raises(ArchitectureError, match=message):
        load(copied, trust=TRUST)
    edit(copied, lambda content: content["weights"].update(sha256=digest(copied)))
    message = r"weights.safetensors in .* does not fit its architecture.json"
    with pytest.raises(ArchitectureError, match=message):
        load(copied, trust=TRUST)


def digest(path: Path) -> str:
    return hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()


def test_missing_weights(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    with pytest.raises(ArchitectureError, match=r"holds no weights\.safetensors"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", 'Missing key(s) in state_dict: "bn1.bias"'),
        ("extra", 'Unexpected key(s) in state_dict: "bn3.bias"'),
        ("reshaped", "bn1.bias is 1, expected "),
        ("scalar", "bn1.bias is a scalar, expected "),
        ("whole", "bn1.bias is torch.int64, expected torch.float32"),
        ("fraction", "bn1.num_batches_tracked is torch.float32, expected torch.int64"),
    ],
)
def test_weights_of_another_network(copied: Path, change: str, message: str) -> None:
    tensors = load_file(copied / WEIGHTS)
    if change == "missing":
        del tensors["bn1.bias"]
    elif change == "extra":
        tensors["bn3.bias"] = torch.zeros(3)
    elif change == "fraction":
        tensors["bn1.num_batches_tracked"] = torch.tensor(0.0)
    else:
        long = tensors["bn1.bias"].long()
        others = {"reshaped": torch.zeros(1), "scalar": torch.tensor(1.0), "whole": long}
        tensors["bn1.bias"] = others[change]
    exchange_weights(copied, tensors)
    with pytest.raises(ArchitectureError) as caught:
        load(copied, trust=TRUST)
    assert "does not fit its architecture.json: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["conv1.weight", "bn2.running_var", "head.fc.bias"])
def test_tampered_weights_are_refused(copied: Path, name: str) -> None:
    """Even under their right checksum: then the probe differs."""
    tensors = load_file(copied / WEIGHTS)
    tensors[name] = tensors[name] * 1.5
    exchange_weights(copied, tensors)
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(copied: Path, value: float) -> None:
    tensors = load_file(copied / WEIGHTS)
    tensors["head.fc.bias"][2] = value
    exchange_weights(copied, tensors)
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        load(copied, trust=TRUST)


def test_one_tensor_in_another_dtype_is_refused(copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    tensors["conv1.weight"] = tensors["conv1.weight"].double()
    exchange_weights(copied, tensors)
    with pytest.raises(ArchitectureError, match="networks:small cannot run on an input of 3×8×8"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("output", [[], [0.0], [0.0] * 5])
def test_a_wrong_probe_is_refused(copied: Path, output: list[float]) -> None:
    edit(copied, lambda content: content["probe"].update(output=output))
    with pytest.raises(ArchitectureError, match="does not reproduce its probe output"):
        load(copied, trust=TRUST)


def test_a_wrong_count_does_not_pass_verification(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fvcore counts in `verify` whatever the closed form said."""
    flops = read(copied).cost.flops
    wrong = dataclasses.replace(read(copied), cost=dataclasses.replace(read(copied).cost, flops=1))
    model = load(copied, trust=TRUST)
    monkeypatch.setattr("copycat.architecture.folder.read", lambda _: wrong)
    monkeypatch.setattr("copycat.architecture.folder.load", lambda *_, **__: model)
    with pytest.raises(ArchitectureError, match=f"says 1 FLOPs .* make {flops:,} and"):
        verify(copied, trust=TRUST)


# Paths that lead elsewhere.


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_links_out_of_the_folder_are_refused(copied: Path, tmp_path: Path, name: str) -> None:
    shutil.move(copied / name, tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchitectureError, match=f"{name} must be a plain file, no link"):
        load(copied, trust=TRUST)
    (copied / name).unlink()
    (copied / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArchitectureError, match=f"{name} must be a plain file, no link"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_pipes_and_folders_are_refused(
    copied: Path, name: str, make: Callable[[Path], None]
) -> None:
    """A pipe would be waited for without end."""
    (copied / name).unlink()
    make(copied / name)
    with pytest.raises(ArchitectureError, match=f"{name} must be a plain file, no link"):
        load(copied, trust=TRUST)


# Damage of any kind.

HARMLESS = ("provenance", "classes")
"""Whoever puts the checksum right as well may write anything there that has the right type."""
VALUES: tuple[Any, ...] = (None, -1, 0, 2.5, 10**30, math.inf, "x", [], {}, [[1]], {"a": None})


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything inside nested lists and mappings."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def schema() -> dict[str, Any]:
    text = (importlib.resources.files("copycat") / "architecture.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def test_no_wrong_value_gets_past(copied: Path) -> None:
    """Each place in the file, each wrong value, under the right checksum.

    Everything that is read also meets the schema.
    """
    text = (copied / JSON).read_text()
    validator = jsonschema.Draft202012Validator(schema())
    num_mutations = 0
    for path in places(json.loads(text)):
        for value in VALUES:
            content = json.loads(text)
            inside = content
            for key in path[:-1]:
                inside = inside[key]
            if inside[path[-1]] == value:
                continue
            inside[path[-1]] = value
            if path != ("checksum",):
                seal(content)
            (copied / JSON).write_text(json.dumps(content))
            num_mutations += 1
            try:
                verify(copied, trust=TRUST)
            except ArchitectureError:
                continue
            assert set(path) & set(HARMLESS), (path, value)
            assert validator.is_valid(content), (path, value)
    assert num_mutations > 300


@pytest.fixture
def rebuilt_once(stored: Path) -> Iterator[None]:
    """The network of `stored` is traced once, for tests that leave its JSON as it is."""
    architecture = read(stored)
    assert architecture.builder is not None
    network = folder_module._rebuilt(stored, architecture, architecture.builder(), None)
    with mock.patch.object(
        folder_module, "_rebuilt", side_effect=lambda *_: copy.deepcopy(network)
    ):
        yield


MUTATED = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutated_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes flipped, cut out, repeated or put in; or the end cut off."""
    position = draw(st.integers(0, len(whole) - 1))
    length = draw(st.integers(1, 9))
    before, after = whole[:position], whole[position:]
    kind = draw(st.sampled_from(["flip", "cut", "repeat", "put", "truncate"]))
    if kind == "flip":
        return before + bytes([after[0] ^ draw(st.integers(1, 255))]) + after[1:]
    if kind == "cut":
        return before + after[length:]
    if kind == "repeat":
        return before + after[:length] + after
    if kind == "put":
        return before + draw(st.binary(min_size=1, max_size=9)) + after
    return before


def content_of(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@MUTATED
@given(st.data(), st.sampled_from([JSON, WEIGHTS]))
def test_a_hundred_damaged_files_end_in_the_documented_error(
    stored: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    """None excepted, but for spaces between the words of JSON."""
    whole = (stored / name).read_bytes()
    damaged = data.draw(mutated_bytes(whole))
    assume(damaged != whole)
    assume(name != JSON or content_of(damaged) != content_of(whole))
    folder = tmp_path_factory.mktemp("damaged") / "small"
    shutil.copytree(stored, folder)
    (folder / name).write_bytes(damaged)
    with pytest.raises(ArchitectureError, match=r"architecture\.json|weights\.safetensors"):
        load(folder, trust=TRUST)


@pytest.mark.usefixtures("rebuilt_once")
@MUTATED
@given(st.data())
def test_damaged_headers_of_weights_end_in_the_documented_error(
    stored: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Under the right checksum, where safetensors and torch have to find the damage."""
    whole = (stored / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = data.draw(mutated_bytes(whole[:header])) + whole[header:]
    folder = tmp_path_factory.mktemp("damaged") / "small"
    shutil.copytree(stored, folder)
    (folder / WEIGHTS).write_bytes(damaged)
    edit(folder, lambda content: content["weights"].update(sha256=digest(folder)))
    before = load_file(stored / WEIGHTS)
    try:
        load(folder, trust=TRUST)
    except ArchitectureError:
        return
    after = load_file(folder / WEIGHTS)
    assert set(before) == set(after)  # what is not refused is the same network
    assert all(torch.equal(before[key], after[key]) for key in before)


PATHS = ("../../etc/passwd", "/etc/passwd", "..", "~/.ssh/id_rsa", "file:///etc/passwd", "\x00", "")


@MUTATED
@given(st.data(), st.sampled_from(["drop", "path", "key"]), st.booleans())
def test_dropped_keys_and_injected_paths_end_in_the_documented_error(
    stored: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    kind: str,
    sealed: bool,
) -> None:
    """Unless the checksum was put right and the network is the same.

    It is if the file loses the width of a base network whose every group it narrows.
    """
    content = json.loads((stored / JSON).read_text())
    harmless = HARMLESS if sealed else ()
    found = [place for place in places(content) if not set(place) & set(harmless)]
    place = data.draw(st.sampled_from([p for p in found if p != ("checksum",)]))
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    path = data.draw(st.sampled_from(PATHS))
    if kind == "drop":
        del inside[place[-1]]
    elif kind == "path" or not isinstance(inside, dict):
        inside[place[-1]] = path
    else:
        inside[path] = inside.pop(place[-1])
    if sealed:
        seal(content)
    folder = tmp_path_factory.mktemp("damaged") / "small"
    shutil.copytree(stored, folder)
    (folder / JSON).write_text(json.dumps(content))
    try:
        loaded = load(folder, trust=TRUST)
    except ArchitectureError:
        return
    assert sealed
    assert state_hash(loaded) == state_hash(load(stored, trust=TRUST))
