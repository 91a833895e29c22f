"""`espalier export` in every format: whole files, or one line and nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from samples import Completed, FinishedSearch, espalier

import copycat

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chosen(finished_search: FinishedSearch) -> Path:
    """The folder of an architecture on the front."""
    return finished_search.folder / finished_search.results.front[0].path


def one_line(completed: Completed) -> str:
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    return line


def test_onnx_and_pt2_are_one_file_each(
    finished_search: FinishedSearch, chosen: Path, here: Path
) -> None:
    name, runs = f"tiny/{finished_search.results.front[0].key}", finished_search.runs
    images = torch.rand(3, 1, 8, 8)
    expected = copycat.load(chosen)(images).detach()
    for form in ("onnx", "pt2"):
        out = f"net.{form}"
        done = espalier("export", name, "--format", form, "--out", out, "--runs", runs)
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"{out} holds {name}; in Python: ")
        assert len(done.out.splitlines()) == 1
    assert sorted(file.name for file in here.iterdir()) == ["net.onnx", "net.pt2"]
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images.numpy()})
    assert np.abs(output - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())
    loaded = torch.export.load("net.pt2").module()
    assert torch.allclose(loaded(images), expected, rtol=0, atol=1e-6)


def test_a_python_module_takes_the_weights_beside_it(chosen: Path, here: Path) -> None:
    done = espalier("export", chosen, "--out=net", "--as-python=network.py")
    assert (done.status, done.err) == (0, "")
    assert sorted(path.name for path in here.iterdir()) == ["net", "network.py"]
    names: dict[str, object] = {}
    exec((here / "network.py").read_text(), names)
    build = names["build"]
    assert callable(build)
    network = build()
    network.load_state_dict(load_file(here / "net" / "weights.safetensors"))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(network.eval()(images), copycat.load(chosen)(images))


def test_a_python_module_can_be_had_alone(chosen: Path, here: Path) -> None:
    done = espalier("export", chosen, "--as-python=network.py")
    assert (done.status, done.err) == (0, "")
    assert str(chosen / "weights.safetensors") in done.out
    assert [path.name for path in here.iterdir()] == ["network.py"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "Missing option '--out', '--as-python' or '--register'"),
        (["--out=o", "--format=pickle"], "'pickle' is not one of"),
        (["--format=onnx", "--out=taken"], "taken already exists: choose another --out"),
        (["--as-python=taken"], "taken already exists: choose another --as-python"),
        (["--out=o", "--as-python=taken"], "taken already exists: choose another --as-python"),
        (["--out=o", "--as-python=o"], "are both o"),
        (["--format=pt2", "--out=taken/x"], "cannot write taken/x"),
        (["--as-python=taken/x"], "cannot write taken/x"),
    ],
)
def test_bad_input_gets_one_line(chosen: Path, here: Path, flags: list[str], expected: str) -> None:
    (here / "taken").write_text("precious")
    assert expected in one_line(espalier("export", chosen, *flags))
    assert [path.name for path in here.iterdir()] == ["taken"]
    assert (here / "taken").read_text() == "precious"


def test_a_missing_extra_gets_one_line(
    chosen: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = one_line(espalier("export", chosen, "--format=onnx", "--out=net.onnx"))
    assert "ONNX needs onnxruntime, which is not installed: pip install 'espalier[onnx]'" in line
    assert list(here.iterdir()) == []
