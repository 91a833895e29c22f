"""`espalier latency`, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from samples import FinishedSearch, espalier

from copycat.latency import read_latencies
from search.commands.latency import latency

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def taken(finished_search: FinishedSearch, tmp_path: Path) -> Path:
    """A folder with an architecture of a search."""
    source = finished_search.folder / finished_search.results.front[0].path
    return Path(shutil.copytree(source, tmp_path / "taken"))


def test_a_folder(taken: Path) -> None:
    for threads in (1, 2, 1):
        completed = espalier("latency", taken, "--threads", str(threads), "--seconds=0.01")
        assert (completed.status, completed.err) == (0, "")
    first, second = read_latencies(taken)  # the first was replaced
    assert (first.threads, second.threads) == (2, 1)
    rows = [line for line in completed.out.splitlines() if line.startswith("│")]
    cells = [cell.strip() for cell in rows[0].strip("│").split("│")]
    assert cells == [
        f"{second.median_ms:.4g}",
        f"{second.iqr_ms:.2g}",
        f"{second.num_runs:,}",
        "1",
        "1",
        "cpu",
        second.machine,
    ]
    assert second.processor in completed.out.replace("\n", " ")
    assert f"torch {torch.__version__}" in completed.out.replace("\n", " ")


def test_an_architecture_of_a_search(finished_search: FinishedSearch, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(finished_search.runs, tmp_path / "runs"))
    key = finished_search.results.front[0].key
    completed = espalier(
        *("latency", f"tiny/{key}", "--batch=3", "--seconds=0.01", "--runs", str(runs))
    )
    assert (completed.status, completed.err) == (0, "")
    (found,) = read_latencies(runs / "tiny" / "architectures" / key)
    assert found.batch == 3


def one_line(*arguments: object) -> str:
    completed = espalier("latency", *arguments)
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    return line


def test_bad_input(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no CUDA device here" in one_line(taken, "--device=cuda")
    assert "batch must be at least 1, got 0" in one_line(taken, "--batch=0")
    assert "seconds must be a finite number" in one_line(taken, "--seconds=nan")
    assert "'tpu' is not one of 'cpu', 'cuda'" in one_line(taken, "--device=tpu")
    assert "an architecture is SEARCH/NAME or a folder" in one_line("nothing")
    assert read_latencies(taken) == ()
    content = json.loads((taken / "architecture.json").read_text())
    content["classes"] = []
    (taken / "architecture.json").write_text(json.dumps(content))
    assert "was damaged or edited" in one_line(taken)


def test_a_damaged_record_is_found_before_time_is_spent(
    taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (taken / "latency.json").write_text("{")
    monkeypatch.setattr("copycat.latency.measured_latency", None)
    assert "delete it and measure again" in one_line(taken)


def test_what_cannot_be_stored_is_shown_all_the_same(
    taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    completed = espalier("latency", taken, "--seconds=0.01")
    assert completed.status == 2
    assert "median ms" in completed.out
    assert completed.err.splitlines() == [
        f"espalier: cannot write {taken / 'latency.json'}: read-only (docs/reference/files.md)"
    ]


def test_the_flags_are_those_that_are_documented() -> None:
    names = {name for parameter in latency.params for name in parameter.opts}
    flags = {"--device", "--batch", "--threads", "--seconds", "--trust", "--runs"}
    assert names == {"architecture", *flags}
