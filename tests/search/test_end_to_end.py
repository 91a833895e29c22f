"""Searches with Ray, Optuna and MLflow as they are: one that ends well, one interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from samples import FinishedSearch, Workers, espalier
from serving import with_default_signals

import copycat
from mlflow_server import connect, schema, store_uri
from mlflow_server.runs import RecordedRun
from pruning import Budget, measure_cost
from search.config.data_config import DataConfig
from search.data import datasets
from search.results.report import Results, open_results
from search.studies.setup import close_recorder, run_recorder
from search.tasks.classification import Classification
from search.tasks.score import ACCURACY
from search.trials.jobs import Outcome
from search.trials.pareto import dominates

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

PICTURES = ("importances", "removed", "retained")


def study_of(folder: Path) -> optuna.Study:
    """The study of a search, opened by Optuna alone."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def recorded_runs(folder: Path) -> dict[str, RecordedRun]:
    """Every MLflow run of a search, by key."""
    from mlflow import MlflowClient  # noqa: PLC0415 - MLflow takes seconds

    uri = store_uri(folder.parent)
    recorder = connect(uri, folder.name)
    runs = MlflowClient(uri).search_runs([recorder.experiment_id], max_results=1000)
    keys = [run.data.tags[schema.TAG_KEY] for run in runs]
    assert len(set(keys)) == len(keys)
    return {key: recorder.read(key) for key in keys}


def by_origin(results: Results, origin: str) -> list[Outcome]:
    return [o for o in results.everything if o.origin == origin]


# ---- a search from the command line


def test_everything_stored_is_within_the_budget(finished_search: FinishedSearch):
    """By fvcore's count of what the files rebuild to."""
    folder, results = finished_search.folder, finished_search.results
    assert results.budget == "flops=10% params=40k"
    for stored in results.networks:
        network = copycat.load(folder / stored.path)
        cost = measure_cost(network, torch.zeros(1, 1, 8, 8))
        assert (cost.flops, cost.params) == (stored.flops, stored.params), stored.key
        if stored.origin == "base":
            assert cost == results.base
            continue
        assert cost.flops <= 0.1 * results.base.flops
        assert cost.params <= 40_000
    keys = {path.name for path in (folder / "architectures").iterdir()}
    assert keys == {o.key for o in results.networks}


def test_the_front_is_what_nothing_stored_beats(finished_search: FinishedSearch):
    results = finished_search.results
    assert results.front
    for stored in results.everything:
        is_beaten = any(dominates(other, stored, ACCURACY) for other in results.everything)
        point = (stored.validation_score, stored.flops)
        on_front = point in [(o.validation_score, o.flops) for o in results.front]
        assert on_front != is_beaten, stored.key


def test_every_trial_and_every_member_of_the_families_is_there(finished_search: FinishedSearch):
    results = finished_search.results
    assert not results.failures
    assert not results.notes
    assert [o.key for o in by_origin(results, "fine-tuned")] == [
        f"fine-tuned-{n}{part}" for n in range(3) for part in ("", "-t50")
    ]
    assert [o.rung for o in by_origin(results, "uniform")] == [1.0, 0.5]
    pairs = by_origin(results, "from-scratch")
    tuned = {o.key: o for o in by_origin(results, "fine-tuned")}
    assert {scratch.equal_compute for scratch in pairs} == {False, True}
    for scratch in pairs:
        name = scratch.key.replace("from-scratch", "fine-tuned").removesuffix("-longer")
        assert scratch.profile == tuned[name].profile
        assert (scratch.flops, scratch.alpha) == (tuned[name].flops, 1.0)
    assert {o.trial for o in by_origin(results, "copycat")} <= {o.trial for o in pairs}
    tempered = by_origin(results, "tempered")
    assert len({o.key for o in tempered}) == 4
    assert all(o.key.startswith("tempered-") for o in tempered)
    assert all(0 <= o.details["rho"] <= 1 for o in tempered)


def test_every_rung_is_met_by_its_members(finished_search: FinishedSearch):
    results = finished_search.results
    limits = Budget.parse(*results.budget.split()).absolute(results.base)
    for stored in results.everything:
        if stored.rung is not None:
            bound = limits.scaled(stored.rung)
            assert stored.flops <= (bound.limit("flops") or 0)
            assert stored.params <= (bound.limit("params") or 0)


def test_the_first_trials_aim_at_the_rungs(finished_search: FinishedSearch):
    first, second, third = study_of(finished_search.folder).trials
    base = finished_search.results.base.flops
    assert first.params["target_flops"] == int(0.1 * base)
    assert second.params["target_flops"] == int(0.1 * base) / 2
    assert 0.05 * base - 1 <= third.params["target_flops"] <= 0.1 * base


def test_the_study_holds_what_the_results_say(finished_search: FinishedSearch):
    trials = study_of(finished_search.folder).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    everything = finished_search.results.everything
    tuned = [o for o in everything if o.key in [f"fine-tuned-{n}" for n in range(3)]]
    assert [trial.values for trial in trials] == [[o.validation_score, o.flops] for o in tuned]
    for trial, stored in zip(trials, tuned, strict=True):
        assert stored.flops <= trial.params["target_flops"]


@pytest.fixture
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_as_before")
def test_accuracies_are_those_of_the_stored_networks(finished_search: FinishedSearch):
    """Measured with as many threads, on which the order of sums depends."""
    data = datasets.load(DataConfig(limit_train=240), seed=0)
    for stored in finished_search.results.front:
        network = copycat.load(finished_search.folder / stored.path)
        torch.set_num_threads(
            copycat.read(finished_search.folder / stored.path).provenance["threads"]
        )
        measured = [
            Classification().evaluate(network, data.loader(part, device=torch.device("cpu")))
            for part in ("validation", "test")
        ]
        assert measured == [stored.validation_score, stored.test_score]
    assert finished_search.results.num_test == len(data.test)


def test_mlflow_holds_the_search_every_trial_and_every_architecture(
    finished_search: FinishedSearch,
):
    results = finished_search.results
    runs = recorded_runs(finished_search.folder)
    architectures = {f"architecture/{o.key}": o for o in results.networks}
    assert set(runs) == {"search", "trial/0", "trial/1", "trial/2", *architectures}
    assert {run.status for run in runs.values()} == {"finished"}
    assert runs["search"].parent is None
    assert {run.parent for key, run in runs.items() if key != "search"} == {"search"}
    pictures = [f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")]
    assert sorted(runs["search"].files) == sorted(
        ["front.png", "results.json", "report.html", *pictures]
    )
    on_front = {o.key for o in results.front}
    for key, stored in architectures.items():
        run = runs[key]
        final = {name: curve[-1][1] for name, curve in run.metrics.items()}
        assert final[schema.of_score(schema.METRIC_VALIDATION_SCORE)] == stored.validation_score
        assert final[schema.of_score(schema.METRIC_TEST_SCORE)] == stored.test_score
        assert final[schema.METRIC_FLOPS] == stored.flops
        assert run.tags[schema.TAG_ORIGIN] == stored.origin
        assert run.tags[schema.TAG_PROFILE] == stored.profile
        assert (run.tags[schema.TAG_ON_FRONT] == "true") == (stored.key in on_front)


def test_mlflow_holds_a_point_for_every_epoch(finished_search: FinishedSearch):
    """Of a trial also its by-product; of that, those before pruning as well."""
    folder = finished_search.folder
    runs = recorded_runs(folder)
    for key, run in runs.items():
        if key == "search":
            continue
        tuned = run.tags[schema.TAG_ORIGIN] == "fine-tuned"
        num_epochs = 10 if key.startswith("trial/") else 7
        if not tuned:
            stored = copycat.read(folder / "architectures" / run.tags[schema.TAG_ARCHITECTURE])
            num_epochs = stored.provenance["epochs"]
            assert num_epochs == 3 or (num_epochs <= 6 and key.endswith("-longer"))
        steps = [step for step, _ in run.metrics[schema.METRIC_TRAIN_LOSS]]
        assert steps == list(range(1, num_epochs + 1)), key


def test_a_person_reads_the_front_the_verdict_and_how_to_go_on(finished_search: FinishedSearch):
    completed, results = finished_search.completed, finished_search.results
    assert completed.err == ""
    shown = " ".join(completed.out.split())
    first, *_, last = results.verdict.splitlines()
    assert all(" ".join(line.split()) in shown for line in (first, last))
    for contrast in results.contrasts:
        assert f"{contrast.place}, against" in shown
        assert contrast.finding in shown
    for stored in results.front:
        assert stored.key in completed.out
    assert completed.out.index("base network") < completed.out.index("trial 0: started")
    assert completed.out.index("trial 0: started") < completed.out.index("Pareto front")
    for command in ("espalier ui tiny --runs runs", "espalier pareto tiny --runs runs"):
        assert command in completed.out
    assert f"espalier export tiny/{results.first_choice} --out" in completed.out
    assert "Take " in completed.out.split("\n\n")[1]
    lines = completed.out.splitlines()
    for start in ("architecture ", "within "):  # the first row of both tables
        (header,) = (number for number, line in enumerate(lines) if line.startswith(start))
        assert lines[header + 1].split()[0] == "base"
    assert "MLflow:" not in completed.out  # a problem of the recorder


def test_a_picture_of_the_front_lies_in_the_folder(finished_search: FinishedSearch):
    picture = (finished_search.folder / "front.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_a_finished_search_is_not_run_again(
    finished_search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where everything was moved to another place; no worker is started for it."""
    shutil.copytree(finished_search.runs, tmp_path / "moved")
    flags = [flag for flag in finished_search.flags if not flag.startswith("--runs")]
    monkeypatch.setattr("search.studies.session.ray_executor", None)
    again = espalier("search", *flags, "--runs", tmp_path / "moved")
    assert (again.status, again.err) == (0, "")
    assert "started" not in again.out
    folder = tmp_path / "moved" / finished_search.folder.name
    assert open_results(folder) == finished_search.results
    runs = recorded_runs(folder)
    assert set(runs) == set(recorded_runs(finished_search.folder))
    assert {run.status for run in runs.values()} == {"finished"}


# ---- a search that is interrupted


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_loses_no_trial(
    desk: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C reaches every process of the terminal's group, the workers among them.

    What is left is done in this process: how Ray does it was seen above.
    """
    shutil.copytree(empty_store, desk / "interrupted")
    flags = ("--runs=interrupted", "--name=s", "--trials=3", "--ladder=1", "--profiles=1")
    flags += ("--limit-train=240", "--batch-size=16", "--epochs=4", "--fine-tune-epochs=3")
    flags += ("--scratch-epochs=1", "--concurrency=1", "--device=cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "search", *flags],
        cwd=desk,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=with_default_signals,  # noqa: PLW1509
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("trial") and "validation accuracy" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().splitlines() == [
        "Stopped. What was finished is kept in interrupted/s, and what was under way up to its "
        "last checkpoint: go on with  espalier resume s --runs interrupted"
    ]
    folder = desk / "interrupted" / "s"
    before = study_of(folder).trials
    finished = [trial for trial in before if trial.state is TrialState.COMPLETE]
    assert 1 <= len(finished) <= 3
    is_told = all(run.status != "running" for run in recorded_runs(folder).values())
    assert is_told or "entries wait in" in out, out  # where others keep the machine busy
    close_recorder(run_recorder(str(folder.parent), "s", ""), Console(), is_interrupted=False)
    assert "running" not in {run.status for run in recorded_runs(folder).values()}
    assert recorded_runs(folder)["search"].status == "killed"

    monkeypatch.chdir(desk)
    monkeypatch.setattr("search.studies.session.ray_executor", Workers())
    completed = espalier("search", *flags)
    assert completed.status == 0, completed.err
    trials = study_of(folder).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert [trials[trial.number] for trial in finished] == finished
    for lost in before:  # one may have been stopped before it had all its parameters
        assert lost.params.items() <= trials[lost.number].params.items()
    results = open_results(folder)
    assert {o.trial for o in by_origin(results, "fine-tuned")} == {0, 1, 2}
    assert results.failures == {}
    assert "running" not in {run.status for run in recorded_runs(folder).values()}
