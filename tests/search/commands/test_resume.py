"""`espalier resume` and `espalier trial` on a search that a real Ray has finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from samples import FinishedSearch, espalier

from search.storage.folder_lock import FolderLock

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def copy(finished_search: FinishedSearch, tmp_path: Path) -> Path:
    """The finished search, and the record of it, somewhere else."""
    runs = tmp_path / "moved"
    shutil.copytree(finished_search.runs, runs)
    return runs / finished_search.folder.name


def content_of(folder: Path) -> dict[Path, bytes]:
    """Every file by its path."""
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_finished_search_is_resumed_to_the_same_result(
    finished_search: FinishedSearch, copy: Path
):
    done = espalier("resume", copy.name, "--runs", copy.parent)
    assert done.status == 0, done.err
    before, after = (
        json.loads((folder / "results.json").read_text())
        for folder in (finished_search.folder, copy)
    )
    assert after == before


def test_a_trial_made_again_comes_out_the_same(copy: Path):
    before = content_of(copy)
    done = espalier("trial", copy.name, "0", "--runs", copy.parent)
    assert done.status == 0, done.err
    assert "Trial 0 comes out the same." in done.out
    assert content_of(copy) == before


def test_a_trial_made_again_leaves_what_a_killed_process_left(copy: Path):
    """Its study is only read: neither mended nor given the trials that it was to have yet."""
    with (copy / "study.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker_')
    (copy / "study.journal.lock").touch()
    settings = json.loads((copy / "search.json").read_text())
    settings["ladder"] = [*settings["ladder"], 0.3]
    (copy / "search.json").write_text(json.dumps(settings | {"trials": 9}))
    before = content_of(copy)
    done = espalier("trial", copy.name, "0", "--runs", copy.parent)
    assert done.status == 0, done.err
    assert content_of(copy) == before


def test_a_trial_made_again_elsewhere_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """Processors differ in last digits."""
    monkeypatch.setattr(
        "search.trials.artifacts.processor_name", lambda _: "a processor of another make"
    )
    test_a_trial_that_comes_out_otherwise_is_told_by_the_status(copy)
    journal = json.loads((copy / "results.json").read_text())["everything"][0]
    done = espalier("trial", copy.name, str(journal["trial"]), "--runs", copy.parent)
    assert "last digits: processor " in done.out
    assert "then, a processor of another make now." in done.out


def test_a_trial_that_comes_out_otherwise_is_told_by_the_status(copy: Path):
    """Its stored accuracy is changed in the study's journal."""
    journal = copy / "study.journal"
    text = journal.read_text()
    accuracy = json.loads((copy / "results.json").read_text())["everything"][0]
    stored = json.dumps(accuracy["validation_score"])
    assert f'"validation_score": {stored}' in text or f'"validation_score":{stored}' in text
    journal.write_text(text.replace(f'"validation_score":{stored}', '"validation_score":0.5'))
    done = espalier("trial", copy.name, str(accuracy["trial"]), "--runs", copy.parent)
    assert done.status == 1
    assert "comes out differently" in done.out


@pytest.mark.parametrize("command", [("resume",), ("trial", "0")], ids=" ".join)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (shutil.rmtree, "holds no search"),
        (lambda folder: (folder / "search.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "search.json").write_text("[]"), "is damaged"),
    ],
    ids=["missing", "torn", "no settings"],
)
def test_what_is_no_search_is_refused_in_one_line(copy: Path, command, damage, told):
    damage(copy)
    name, *rest = command
    done = espalier(name, copy.name, *rest, "--runs", copy.parent)
    assert done.status == 2
    assert told in done.err
    assert done.err.count("\n") == 1


def test_a_trial_that_does_not_exist_is_refused(copy: Path):
    done = espalier("trial", copy.name, "99", "--runs", copy.parent)
    assert done.status == 2
    assert "has no trial 99: it has 0 to" in done.err


@pytest.mark.parametrize("command", [("resume",), ("trial", "0")], ids=" ".join)
def test_a_search_that_is_being_worked_on_is_left_alone(copy: Path, command):
    name, *rest = command
    with FolderLock(copy, "search") as lock:
        lock.acquire()
        done = espalier(name, copy.name, *rest, "--runs", copy.parent)
    assert done.status == 2
    assert "is being worked on by process" in done.err
