"""Small experiments from file to page, in this process: no Ray, no MLflow."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

import pytest
from samples import Workers, espalier

from mlflow_server import MemoryRecorder
from search.experiments.claims import Verdict
from search.experiments.definition import read
from search.experiments.measurement import Measurement
from search.experiments.page import measured_page
from search.experiments.plan import Where
from search.experiments.removal import Trajectories
from search.experiments.studies import RemovalOf
from search.scheduling import own_ray
from search.trials.jobs import Outcome

SEARCH = """
title = "scales and importances"
source = "RNI, Table 2"
about = "What is done."
tried = "longer training."
seeds = {smoke = 2}
[settings]
model = "samples:small_network"
budget = ["flops=100%"]
criterion = ["slimming"]
trials = 1
profiles = 0
targets = ["flops=60%", "flops=40%"]
data = {limit_train = 120}
training = {epochs = 1, fine_tune_epochs = 1, batch_size = 32}
study = {early_stopping = false}
[[columns]]
label = "60 % test"
at = "flops=60%"
[[columns]]
label = "40 % FLOPs left"
value = "FLOPs left"
at = "flops=40%"
[[columns]]
label = "base"
at = "base"
[[parts]]
[[parts.rows]]
label = "L1"
paper = [90.0, 40.0, nan]
[[parts.rows]]
label = "magnitude"
settings = {criterion = ["magnitude-l1"]}
paper = [80.0, 40.0, nan]
[[claims]]
text = "magnitude leaves more FLOPs than the paper's L1"
column = "40 % FLOPs left"
higher = ["magnitude"]
lower = ["L1"]
[[figures]]
form = "importances"
at = "flops=40%"
[[figures]]
form = "removed"
at = "flops=40%"
[[figures]]
form = "retained"
rows = ["L1"]
at = "flops=40%"
[[figures]]
form = "batchnorm"
rows = ["L1"]
[[figures]]
form = "bars"
[[figures]]
form = "penalty"
"""

CORRELATION = """
title = "agreement with the oracle, then removal"
source = "Molchanov et al., Table 1"
about = "What is done."
seeds = {smoke = 1}
[[runs]]
name = "agreement"
study = "correlation"
[runs.settings]
model = "digits-vgg"
criterion = ["taylor", "magnitude-l2"]
data = {limit_train = 120}
training = {epochs = 1, batch_size = 32}
scoring_batches = 1
[[runs]]
name = "removal"
study = "removal"
[runs.settings]
source = "{agreement}/base"
criterion = ["taylor", "taylor-fixed", "greedy", "combinatorial"]
groups = ["features.conv1"]
most = 0.07
batch_size = 32
scoring_batches = 1
data = {limit_train = 120}
[[columns]]
label = "Spearman"
value = "spearman"
at = "mean"
[[parts]]
run = "agreement"
[[parts.rows]]
label = "Taylor"
of = "taylor"
at = "mean"
paper = [0.9]
[[figures]]
form = "correlations"
"""

REMOVAL = (
    CORRELATION.partition("[[columns]]")[0]
    + """
[[columns]]
label = "loss without 2"
value = "loss"
at = "2"
[[parts]]
run = "removal"
[[parts.rows]]
label = "Taylor"
of = "taylor"
[[parts.rows]]
label = "Taylor, fixed"
of = "taylor-fixed"
[[parts.rows]]
label = "Greedy oracle"
of = "greedy"
[[parts.rows]]
label = "Combinatorial oracle"
of = "combinatorial"
[[figures]]
form = "trajectories"
"""
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("table2", SEARCH), ("table1", CORRELATION), ("figure2", REMOVAL)):
        file = tmp_path / f"experiments/one/{name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_searches_become_a_page_with_tables_and_figures(here: Path, workers: Workers):
    completed = espalier("reproduce", "one/table2", "--scale=smoke", "--device=cpu")
    assert completed.status == 0, completed.err
    page = (here / "experiments/one/table2-smoke.md").read_text()
    first = page.splitlines()[2]
    assert first.startswith(("**Does not show here:** magnitude", "**Not beyond chance here:**"))
    assert "What was tried: longer training." in page
    assert "| L1 | 90.00 |" in page
    experiment = read(here / "experiments/one/table2.toml", "one/table2")
    measured = Measurement.read(here / "experiments/one/table2-smoke.json")
    assert len(measured.cells["", "L1", "40 % FLOPs left"]) == 2
    assert page == measured_page(experiment, Where("smoke", "espalier-runs"), measured)
    assert "n = 2 seeds" in page
    assert page.count("espalier search") == 4
    for number in range(1, 7):
        for suffix in ("png", "svg"):
            assert (here / f"experiments/one/table2-smoke-{number}.{suffix}").stat().st_size > 1000
    assert "one/table2-smoke.md holds all numbers" in completed.out
    trained = len(workers.performed)
    assert trained == 8  # two rows, two seeds: a trial and the base network each
    assert espalier("reproduce", "one/table2", "--scale=smoke", "--device=cpu").status == 0
    assert len(workers.performed) == trained
    assert (here / "experiments/one/table2-smoke.md").read_text() == page
    (here / "espalier-runs").rename(here / "moved")
    moved = espalier("reproduce", "one/table2", "--scale=smoke", "--device=cpu", "--runs=moved")
    assert moved.status == 0, moved.err
    assert len(workers.performed) == trained


def test_what_was_stopped_goes_on_with_what_is_left(here: Path, workers: Workers):
    arguments = ("reproduce", "one/table2", "--scale=smoke", "--device=cpu")
    usual = workers.perform

    def stopped(*arguments: object) -> tuple[Outcome, ...]:
        if len(workers.performed) == 3:
            raise KeyboardInterrupt
        return usual(*arguments)

    workers.perform = stopped
    completed = espalier(*arguments)
    assert completed.status == 130
    assert "the same command goes on from there" in completed.err
    assert not (here / "experiments/one/table2-smoke.md").exists()
    workers.perform = usual
    assert espalier(*arguments).status == 0
    assert len(workers.performed) == 8
    assert (here / "experiments/one/table2-smoke.md").is_file()


def test_a_correlation_study_and_removals_from_its_network(here: Path, memory: MemoryRecorder):
    completed = espalier("reproduce", "one/table1,one/figure2", "--scale=smoke", "--device=cpu")
    assert completed.status == 0, completed.err
    table = (here / "experiments/one/table1-smoke.md").read_text()
    assert "espalier correlate" in table
    (row,) = [
        line
        for line in (here / "experiments/one/figure2-smoke.md").read_text().splitlines()
        if line.startswith("| Greedy")
    ]
    greedy = float(row.split("|")[3].split("±")[0])
    assert greedy > 0
    assert (here / "experiments/one/figure2-smoke.svg").is_file()


def test_a_loss_that_is_never_reached_counts_all_that_went():
    removal = RemovalOf({"source": "found/base"})
    removal.results = Trajectories({"taylor": [(0, 0.1), (12, 0.5), (24, 1.2), (36, 1.1)]})
    for at, count in (("0.5", 12), ("0.6", 24), ("2", 36)):
        assert removal.values("removed", of="taylor", at=at) == [count]
    assert removal.values("removed", of="oracle", at="1") == []
    assert removal.values("loss", of="taylor", at="20") == [1.2]


def test_one_ray_serves_all_experiments_of_a_command(here: Path, monkeypatch: pytest.MonkeyPatch):
    keepers = []

    def reproduce(*_: object) -> tuple[Path, list[Verdict]]:
        keepers.append(own_ray._KEEPER.get())
        return here, []

    monkeypatch.setattr(own_ray, "_KEEPER", ContextVar("of another process", default=None))
    monkeypatch.setattr("search.experiments.reproduction.reproduce", reproduce)
    assert espalier("reproduce", "one", "--scale=smoke").status == 0
    assert len(keepers) == 3
    assert keepers[0] is not None
    assert all(keeper is keepers[0] for keeper in keepers)


def test_a_run_whose_folder_holds_something_else_is_refused(here: Path, workers: Workers):
    arguments = ("reproduce", "one/table2", "--scale=smoke")
    line = espalier(*arguments, "--dry-run").out.splitlines()[0]
    (name,) = [part.partition("=")[2] for part in line.split() if part.startswith("--name=")]
    taken = here / "espalier-runs" / name
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    completed = espalier(*arguments)
    assert completed.status == 2
    (message,) = completed.err.splitlines()
    assert "exists but holds no search" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one/tabel2",), "no experiment 'one/tabel2': did you mean one/table2"),
        (("one/table2", "--scale=huge"), "'huge' is not one of 'smoke', 'small', 'paper'"),
        (("one/table2", "--data=imagefolder:none"), "there is no folder 'none': unpack"),
        (("one/table2", "--experiments=none"), "there are no experiments in none"),
        (("--scale=smoke",), "--scale has no effect on the list"),
    ],
)
def test_bad_input_gets_one_line(here: Path, arguments: tuple[str, ...], message: str):
    completed = espalier("reproduce", *arguments)
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    assert message in line


def test_images_that_are_not_unpacked_are_told_before_anything_runs(here: Path, workers: Workers):
    file = here / "experiments/one/table2.toml"
    file.write_text(
        file.read_text().replace("{limit_train", '{source = "imagefolder:i", limit_train')
    )
    assert espalier("reproduce", "one/table2", "--scale=smoke", "--dry-run").status == 0
    completed = espalier("reproduce", "one", "--scale=smoke")
    assert (completed.status, completed.out) == (2, "")
    assert (
        "there is no folder 'i': unpack the images there, or name others by --data" in completed.err
    )
    assert not workers.performed


def test_without_names_the_experiments_are_listed(here: Path):
    completed = espalier("reproduce")
    assert completed.status == 0
    assert "one/table2" in completed.out
    assert "Molchanov et al., Table 1" in completed.out
