"""All experiments of the project: settings fit, claims are the papers', there are pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.experiments.claims import verdicts
from search.experiments.definition import SCALES, Experiment, Scale, names, read
from search.experiments.page import empty_page
from search.experiments.plan import Plan, Where

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def experiment(name: str) -> Experiment:
    return read(EXPERIMENTS / f"{name}.toml", name)


def test_every_table_and_figure_of_the_four_papers_is_there():
    expected = {
        "rni": {*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in (1, 2, 4, 5))},
        "copycat": {"figure1", "figure2c"},
        "taylor": {*(f"table{n}" for n in (1, 2, 3)), *(f"figure{n}" for n in (2, 3, 4))},
        "scaling_factors": {f"table{n}" for n in range(1, 8)},
    }
    every = {f"{paper}/{name}" for paper, own in expected.items() for name in own}
    assert {*names(EXPERIMENTS)} == every | {"rni/counts", "copycat/counts"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", names(EXPERIMENTS))
def test_the_settings_of_every_run_fit(name: str, scale: Scale):
    runs = list(Plan(experiment(name), Where(scale, "runs")))
    assert runs
    for run in runs:
        assert run.config


@pytest.mark.parametrize("name", names(EXPERIMENTS))
def test_what_is_claimed_is_what_the_papers_numbers_show(name: str):
    for verdict in verdicts(experiment(name), {}):
        assert verdict.paper in ("yes", "–"), verdict.claim.text


@pytest.mark.parametrize("name", names(EXPERIMENTS))
def test_every_experiment_has_a_page_with_its_command(name: str):
    page = (EXPERIMENTS / f"{name}.md").read_text()
    assert page.startswith(f"# {experiment(name).source}: {experiment(name).title}\n")
    assert f"espalier reproduce {name} --scale small" in page
    if "Not run yet" in page:
        assert page == empty_page(experiment(name), Where("small", "runs"))


def test_a_page_that_was_not_run_shows_no_number_of_ours():
    page = empty_page(experiment("rni/table2"), Where("small", "runs"))
    assert "**Not run yet at `--scale small`**" in page
    rows = [line for line in page.splitlines() if line.startswith("| RNI |")]
    assert len(rows) == 2
    assert all(cell.strip() == "–" for row in rows for cell in row.split("|")[3::2])
