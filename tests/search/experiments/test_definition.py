"""Files of experiments: what is read, what is refused, how settings are laid over each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.errors import ConfigError
from search.experiments.definition import chosen, merged, names, read
from search.experiments.plan import Plan, Where
from search.experiments.studies import SearchOf

TOML = """
title = "t"
source = "s"
about = "a"
seeds = {small = 2}
[settings]
trials = 1
[settings.training]
epochs = 3
[scales.small.training]
epochs = 5
fine_tune_epochs = 2
[[columns]]
label = "test"
[[parts]]
label = "first"
[[parts.rows]]
label = "RNI"
settings = {criterion = ["rni"], training = {epochs = 7}}
paper = [90.0]
[[parts.rows]]
label = "L1"
settings = {criterion = ["slimming"]}
paper = [nan]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("rni/table2", "rni/table10", "taylor/figure2"):
        file = tmp_path / f"{name}.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(TOML)
    return tmp_path


def plan(folder: Path, **where: str) -> Plan:
    return Plan(chosen(folder, ("rni/table2",))[0], Where("small", "runs", **where))


def test_experiments_are_listed_in_the_order_that_people_count(folder: Path):
    assert names(folder) == ["rni/table2", "rni/table10", "taylor/figure2"]


def test_a_paper_stands_for_its_experiments(folder: Path):
    assert [e.name for e in chosen(folder, ("rni", "rni/table2"))] == ["rni/table2", "rni/table10"]


def test_an_unknown_experiment_gets_close_names(folder: Path):
    with pytest.raises(ConfigError, match=r"no experiment 'rni/tabel2': did you mean rni/table2"):
        chosen(folder, ("rni/tabel2",))


def test_a_folder_without_experiments_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there are no experiments in .*--experiments"):
        names(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "t"\n', "", "title: Field required"),
        ('title = "t"', 'titel = "t"\ntitle = "t"', "titel: Unexpected"),
        ("paper = [90.0]", "paper = [90.0, 1.0]", "the row 'RNI' has 2 of .* write nan"),
        (
            "[[parts]]",
            '[[claims]]\ntext = "c"\nhigher = ["R"]\n[[parts]]',
            "no row 'R': .* RNI, L1",
        ),
        ('label = "first"', 'label = "first"\nrun = "x"', "has no run 'x'"),
        (
            "[[parts]]",
            '[[claims]]\ntext = "c"\nhigher = ["L1"]\nover = "best"\n[[parts]]',
            "has no column 'best': it has test",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(
    tmp_path: Path, old: str, new: str, message: str
):
    file = tmp_path / "e.toml"
    file.write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read(file, "rni/e")


def test_settings_of_tables_are_merged_one_by_one():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
    }


def test_a_row_is_a_run_for_each_seed_with_the_settings_of_all_layers(folder: Path):
    runs = list(plan(folder))
    assert all(isinstance(run, SearchOf) for run in runs)
    assert [run.config.seed for run in runs] == [0, 1, 0, 1]
    first, _, third, _ = (run.config for run in runs)
    assert (first.training.epochs, third.training.epochs) == (7, 5)
    assert (first.training.fine_tune_epochs, first.trials) == (2, 1)
    assert (first.criterion, third.criterion) == (("rni",), ("slimming",))
    assert len({run.name for run in runs}) == 4
    assert "--criterion=slimming" in runs[2].command


def test_rows_that_differ_in_signs_alone_have_runs_of_their_own(folder: Path):
    """λ/10 and 10 λ are the same in the letters of a folder's name."""
    file = folder / "rni/table2.toml"
    file.write_text(TOML.replace('"RNI"', '"λ/10"').replace('"L1"', '"10 λ"'))
    both = plan(folder)
    assert len(list(both)) == 4
    (part,) = both.experiment.parts
    assert [both.runs_of(part, row)[0].config.criterion for row in part.rows] == [
        ("rni",),
        ("slimming",),
    ]


def test_equal_settings_share_a_run_and_changed_ones_do_not(folder: Path):
    (folder / "rni/table10.toml").write_text(TOML.replace("epochs = 7", "epochs = 8"))
    both = [
        {run.name for run in Plan(experiment, Where("small", "runs"))}
        for experiment in chosen(folder, ("rni",))
    ]
    assert len(both[0] & both[1]) == 2


def test_other_data_are_another_run(folder: Path):
    (run, *_) = plan(folder, data="imagefolder:.data/cifar")
    assert run.config.data.source == "imagefolder:.data/cifar"
    assert "small-cifar" in run.name


def test_a_setting_that_there_is_not_is_refused_before_anything_runs(folder: Path):
    (folder / "rni/table2.toml").write_text(TOML.replace("trials = 1", "trails = 1"))
    with pytest.raises(ConfigError, match="unknown key 'trails': did you mean trials"):
        plan(folder)
