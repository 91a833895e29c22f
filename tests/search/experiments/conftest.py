"""The project's own experiments at the smoke scale, in this process: no Ray, no MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from samples import Workers, espalier

from mlflow_server import MemoryRecorder
from search.experiments.definition import names, read
from search.experiments.plan import Plan, Where

EXPERIMENTS = Path(__file__).parents[3] / "experiments"

Smoke = Callable[[str], str]
"""From the name of an experiment to its page."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives `of_paper` every experiment of the paper that the file of tests is called after."""
    if "of_paper" in metafunc.fixturenames:
        paper = metafunc.definition.path.stem.removeprefix("test_")
        own = [name for name in names(EXPERIMENTS) if name.startswith(f"{paper}/")]
        metafunc.parametrize("of_paper", own)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of its own for every study, in place of MLflow."""
    recorder = cache(MemoryRecorder)
    monkeypatch.setattr("search.studies.session.run_recorder", lambda _, name, __: recorder(name))


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are that experiments of one paper share."""
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture
def smoke(shared_runs: Path, workers: Workers) -> Smoke:
    """Runs an experiment and checks that every row has a number, and every figure is there.

    Once: whoever asks again gets the page.
    """

    def run(name: str) -> str:
        written = shared_runs / "pages" / f"{name}-smoke.md"
        return written.read_text() if written.is_file() else checked(name)

    def checked(name: str) -> str:
        runs, out = shared_runs / "runs", shared_runs / "pages"
        completed = espalier(
            *("reproduce", name, "--scale=smoke", "--device=cpu"),
            *(f"--experiments={EXPERIMENTS}", f"--out={out}", f"--runs={runs}"),
        )
        assert completed.status == 0, completed.err
        page = (out / f"{name}-smoke.md").read_text()
        experiment = read(EXPERIMENTS / f"{name}.toml", name)
        plan = Plan(experiment, Where("smoke", str(runs)))
        for part, row in experiment.rows():
            if plan.runs_of(part, row):
                lines = [line for line in page.splitlines() if line.startswith(f"| {row.label} |")]
                here = [cell.strip() for line in lines for cell in line.split("|")[3::2]]
                assert any(re.match(r"-?[0-9]", cell) for cell in here), row.label
        for figure in re.findall(r"!\[.*?\]\((.*?)\.png\)", page):
            assert (out / f"{name}-smoke").with_name(f"{figure}.svg").is_file()
        assert page.count("![") == len(experiment.figures)
        return page

    return run
