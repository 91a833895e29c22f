"""`espalier list` on folders as searches leave them, and `espalier stop`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ABSOLUTE_ERROR, another_process, base_outcome, espalier, outcome, trial_job

from search.commands import runs_folder
from search.storage.folder_lock import FolderLock
from search.trials.jobs import job_to_mapping

START = 1_700_000_000_000
HOLD = """
import signal, sys, time
from pathlib import Path
from search.storage.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "search")
lock.acquire()
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("held", flush=True)
time.sleep(60)
"""


def made(runs: Path, name: str, *events: dict[str, object]) -> Path:
    """The folder of a search in which these things happened, a second after each other."""
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "search.json").write_text("{}")
    with (folder / "events.jsonl").open("w") as stream:
        for number, event in enumerate(events):
            stream.write(json.dumps({"time_ms": START + 1000 * number, **event}) + "\n")
    return folder


def launched() -> dict[str, object]:
    base = {"flops": 2000, "params": 200}
    return {"event": "launched", "pid": 1, "lines": [], "trials": 3, "base": base, "limits": {}}


def trial(number: int, accuracy: float | None, flops: int = 1000) -> list[dict[str, object]]:
    """Begun and, with an accuracy, finished."""
    job = trial_job(number)
    begun = {"event": "started", "key": job.key, "job": job_to_mapping(job)}
    found = outcome(job.key, flops=flops, validation_score=accuracy or 0.0)
    done = {"event": "finished", "key": job.key, "outcomes": [found.to_mapping()]}
    return [begun] if accuracy is None else [begun, done]


def test_the_best_of_errors_is_the_least_and_says_what_it_is(tmp_path: Path):
    made(
        tmp_path,
        "a",
        {**launched(), "score": ABSOLUTE_ERROR.to_mapping()},
        *trial(0, 0.75),
        *trial(1, 0.0625),
        *trial(2, 0.5),
    )
    (found,) = listed(tmp_path).values()
    assert found["best"]["key"] == "fine-tuned-1"
    assert found["score"] == ABSOLUTE_ERROR.to_mapping()
    assert " mean absolute error 0.0625 " in espalier("list", "--runs", tmp_path).out


def listed(runs: Path) -> dict[str, dict[str, object]]:
    completed = espalier("list", "--json", "--runs", runs)
    assert (completed.status, completed.err) == (0, "")
    return {one["name"]: one for one in json.loads(completed.out)}


def test_a_state_is_that_of_lock_results_and_last_event(tmp_path: Path):
    made(tmp_path, "stopped", launched(), {"event": "interrupted"})
    made(tmp_path, "killed", launched())
    made(tmp_path, "failed", launched(), {"event": "failed", "reason": "no [luck]"})
    finished = made(tmp_path, "finished", launched(), {"event": "concluded"})
    (finished / "results.json").write_text("{}")
    resumed = made(tmp_path, "resumed", launched(), {"event": "failed", "reason": "no luck"})
    made(tmp_path, ".removed-gone", launched())
    (tmp_path / "no search").mkdir()
    with FolderLock(resumed, "search") as lock:
        lock.acquire()
        found = listed(tmp_path)
    assert {name: one["state"] for name, one in found.items()} == {
        **{"stopped": "stopped", "killed": "stopped", "failed": "failed"},
        **{"finished": "finished", "resumed": "running"},
    }
    assert found["failed"]["reason"] == "no [luck]"
    assert found["failed"]["ended_ms"] == START + 1000
    assert found["resumed"]["ended_ms"] is None


def test_what_is_done_is_counted_and_the_best_is_told(tmp_path: Path):
    """One of three epochs was done in seven seconds, one will not come: the third takes seven."""
    record = {
        **{"stage": "sparse training", "step": 1, "num_steps": 1, "train_loss": 1.0},
        **{"validation_score": 0.5, "learning_rate": 0.1, "seconds": {"steps": 0.5, "data": 0.25}},
    }
    begun, done = trial(0, 0.625, flops=1_230_000)
    folder = made(
        tmp_path,
        "a",
        launched(),
        {"event": "expected", "epochs": 3},
        begun,
        {"event": "epochs", "key": "fine-tuned-0", "records": [record]},
        done,
        *trial(1, None),
        {"event": "ended", "key": "fine-tuned-1", "state": "infeasible", "reason": "too large"},
        *trial(2, None),
    )
    with FolderLock(folder, "search") as lock:
        lock.acquire()
        found = listed(tmp_path)["a"]
        table = espalier("list", "--runs", tmp_path).out.splitlines()
    assert (found["trials_done"], found["trials_planned"]) == (2, 3)
    assert found["best"]["key"] == "fine-tuned-0"
    assert found["seconds_left"] == 7.0
    assert found["wall_seconds"] == {
        **{"steps": 0.5, "data": 0.25, "evaluation": 0, "checkpoint": 0, "report": 0},
        **{"beside epochs": 2.25, "without a job": 4},
    }
    heading, row = (line.split() for line in table)
    assert heading == [
        *("study", "kind", "state", "trials", "networks", "best", "FLOPs", "time"),
    ]
    assert row == [
        "a",
        "search",
        "running",
        "2/3",
        "1",
        "62.5%",
        "1.23M",
        *("about", "7", "s", "left,", "7", "%", "training"),
    ]


def test_the_base_network_is_told_apart_from_the_best(tmp_path: Path):
    """It may cost whatever it does, so it is no answer to the search, and never the best of it."""
    base = base_outcome(flops=2000, validation_score=0.99).to_mapping()
    done = {"event": "finished", "key": "base", "outcomes": [base]}
    made(tmp_path, "a", launched(), done)
    found = listed(tmp_path)["a"]
    assert (found["base"]["validation_score"], found["best"]) == (0.99, None)
    made(tmp_path, "b", launched(), done, *trial(0, 0.625))
    found = listed(tmp_path)["b"]
    assert (found["base"]["key"], found["best"]["key"]) == ("base", "fine-tuned-0")
    assert "62.5% (base 99.0%)" in re.sub("  +", "  ", espalier("list", "--runs", tmp_path).out)


def test_an_end_is_told_by_its_day(tmp_path: Path):
    made(tmp_path, "a", launched(), {"event": "interrupted"})
    (row,) = espalier("list", "--runs", tmp_path).out.splitlines()[1:]
    assert row.split()[:6] == ["a", "search", "stopped", "0/3", "0", "–"]
    assert "ended 2023-11-1" in row


def test_no_searches_are_no_error(tmp_path: Path):
    assert listed(tmp_path / "nowhere") == {}
    completed = espalier("list", "--runs", tmp_path)
    assert (completed.status, completed.out) == (0, "")
    assert completed.err == "There are no searches.\n"


@pytest.mark.parametrize("damage", ["line", "pipe", "folder"])
def test_what_cannot_be_read_of_one_search_hides_no_other(tmp_path: Path, damage: str):
    made(tmp_path, "whole", launched(), {"event": "interrupted"})
    file = made(tmp_path, "damaged") / "events.jsonl"
    if damage == "line":
        file.write_text("{]\n")
    else:
        file.unlink()
        file.mkdir() if damage == "folder" else os.mkfifo(file)
    completed = espalier("list", "--runs", tmp_path)
    assert (completed.status, completed.err) == (0, "")
    *_, last = completed.out.splitlines()
    assert last.startswith("damaged: ")
    assert "cannot be read" in last
    assert "whole" in completed.out


def test_a_list_does_without_torch(tmp_path: Path):
    made(tmp_path, "a", launched(), *trial(0, 0.5))
    script = (
        "import sys; from search.cli import main\n"
        f"sys.argv = ['espalier', 'list', '--runs', {str(tmp_path)!r}]\n"
        "main(); print([m for m in ('torch', 'ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# ---- stop


def stopped(folder: Path) -> tuple[int, str, str]:
    completed = espalier("stop", folder.name, "--runs", folder.parent)
    return completed.status, completed.out, completed.err


def test_a_search_is_ended_and_what_is_kept_is_told(tmp_path: Path):
    folder = made(tmp_path, "a", launched(), *trial(0, 0.5))
    with another_process(HOLD.format(deaf=False), folder) as process:
        assert stopped(folder) == (
            0,
            "a is stopped. Kept are 1 of 3 trials, 1 networks, and what was under way up to its "
            f"last checkpoint: go on with  espalier resume a --runs {tmp_path}\n",
            "",
        )
        assert process.wait(10) == -15


def test_what_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs_folder, "_PATIENCE_SECONDS", 0.3)
    folder = made(tmp_path, "a", launched())
    with another_process(HOLD.format(deaf=True), folder) as process:
        status, out, err = stopped(folder)
        assert (status, out) == (2, "")
        assert f"process {process.pid} of a was asked to end, and has not within 0.3 s" in err
        assert process.poll() is None


def test_nobody_but_the_holder_of_the_lock_is_ended(tmp_path: Path):
    """The file names a process that is alive, and that has another search's lock."""
    folder, other = made(tmp_path, "a", launched()), made(tmp_path, "b", launched())
    with another_process(HOLD.format(deaf=False), other) as innocent:
        with FolderLock(folder, "search") as lock:
            lock.acquire()
            (folder / ".lock").write_text(str(innocent.pid))
            status, _, err = stopped(folder)
        assert status == 2
        assert "is not one of this machine, or not yours" in err.replace("which is", "is")
        assert innocent.poll() is None


@pytest.mark.parametrize("name", ["a", "nope"])
def test_what_does_not_run_is_not_stopped(tmp_path: Path, name: str):
    made(tmp_path, "a", launched())
    status, out, err = stopped(tmp_path / name)
    assert (status, out) == (2, "")
    expected = "a is stopped: there is nothing to stop" if name == "a" else "holds no search"
    assert expected in err


def test_a_service_is_asked_to_stop_its_own(tmp_path: Path):
    """It would bring a search back whose process ends."""
    folder = made(tmp_path, "a", launched())
    with (
        another_process(HOLD.format(deaf=False), folder) as process,
        FolderLock(tmp_path, "service") as service,
    ):
        service.acquire()
        status, _, err = stopped(folder)
        assert status == 2
        assert "belongs to a service" in err
        assert process.poll() is None
