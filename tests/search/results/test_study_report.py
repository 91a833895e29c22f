"""The report of a family and of a correlation study."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import base_outcome, espalier, outcome

from search.commands.correlate import correlate
from search.commands.family import family
from search.commands.flags import overridden
from search.config.correlation_config import CorrelationConfig
from search.config.family_config import FamilyConfig
from search.config.settings import from_mapping
from search.config.training_config import TrainingConfig
from search.results import correlation_report, family_results, figures
from search.results.correlation import agreement
from search.results.correlation_report import CorrelationResults
from search.results.family_results import FamilyRun, FamilyStudy
from search.results.html_report import report_page
from search.storage.layout import RESULTS_FILES, SETTINGS_FILES, StudyKind

EVIL = "</script><img src=http://evil>"
COMMANDS = {"family": family, "correlation": correlate}


def write(config: Any, kind: StudyKind, results: Any) -> Path:
    folder: Path = config.directory
    folder.mkdir(parents=True)
    (folder / SETTINGS_FILES[kind]).write_text(json.dumps(dataclasses.asdict(config)))
    (folder / RESULTS_FILES[kind]).write_text(json.dumps(results))
    return folder


@pytest.fixture
def of_family(tmp_path: Path) -> Path:
    training = TrainingConfig(scratch_epochs=3, batch_size=32)
    config = FamilyConfig(
        *("digits/base", ("params=3k", "params=5k"), ("uniform",)),
        **{"seeds": 2, "runs": str(tmp_path), "name": "ladder", "training": training},
    )
    runs = [
        FamilyRun("uniform", f"params={size}k", seed, outcome(params=1000 * size, test_score=0.9))
        for size in (3, 5)
        for seed in (0, 1)
    ]
    study = FamilyStudy(
        *(tuple(runs), 400, {"uniform-7": EVIL}, (EVIL,), ()), base_network=base_outcome()
    )
    folder = write(config.resolved(), "family", study.to_mapping())
    figures.saved(figures.family_figure(study.curves, axis="", note=""), folder / "family")
    return folder


@pytest.fixture
def of_correlation(tmp_path: Path) -> Path:
    config = CorrelationConfig(criterion=("taylor",), runs=str(tmp_path), name="criteria")
    scores = {"conv": np.array([1.0, 2, 4, 3])}, {"conv": np.array([1.0, 2, 3, 4])}
    found = agreement("taylor", *scores)
    results = CorrelationResults((found,), 4, 64, 0.9, ())
    content = correlation_report.content(results, config, {"taylor": scores[0]}, scores[1])
    folder = write(config.resolved(), "correlation", content)
    figures.saved(figures.correlation_figure({"taylor": found.metrics}), folder / "correlation")
    return folder


@pytest.fixture(params=["family", "correlation"])
def study(request: pytest.FixtureRequest) -> tuple[StudyKind, Path]:
    kind: StudyKind = request.param
    return kind, request.getfixturevalue(f"of_{kind}")


def test_the_page_holds_the_table_that_the_terminal_shows(study: tuple[StudyKind, Path]) -> None:
    kind, folder = study
    if kind == "family":
        results = FamilyStudy.read(folder / "family.json")
        table = family_results.study_table(results)
    else:
        table = correlation_report.study_table(
            correlation_report.read_results(folder / "correlation.json")
        )
    expected = [[str(cell) for cell in column.cells] for column in table.columns]
    page = report_page(folder)
    rows = [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
        if "<td" in row
    ]
    assert len(rows) == table.row_count > 0
    assert [list(column) for column in zip(*rows, strict=True)] == expected


def test_nothing_is_loaded_and_texts_of_others_stay_texts(study: tuple[StudyKind, Path]) -> None:
    kind, folder = study
    page = report_page(folder)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [source.partition(",")[0] for source in sources] == ["data:image/svg+xml;base64"]
    assert "<script" not in page
    assert EVIL not in page
    assert (html.escape(EVIL, quote=False) in page) == (kind == "family")


def test_its_command_repeats_the_study(study: tuple[StudyKind, Path]) -> None:
    kind, folder = study
    words = [
        shlex.split(html.unescape(command))
        for command in re.findall(r"<code>(.*?)</code>", report_page(folder))
    ]
    (again,) = (command[1:] for command in words if command[1] != "ui")
    command = COMMANDS[kind]
    params = command.make_context(again[0], again[1:]).params
    settings = {
        name: value for name, value in params.items() if name not in ("config_file", "recipe")
    }
    apart = {
        name: settings.pop(name)
        for name in ("train", "shape", "classes", "as_json")
        if name in settings
    }
    assert apart.get("train", True)
    source = {"source": settings.pop("source")} if kind == "family" else {}
    stored = json.loads((folder / SETTINGS_FILES[kind]).read_text())
    cls = {"family": FamilyConfig, "correlation": CorrelationConfig}[kind]
    assert from_mapping(cls, source | overridden({}, settings)) == from_mapping(cls, stored)


def test_the_command_writes_it(study: tuple[StudyKind, Path]) -> None:
    _, folder = study
    done = espalier("report", folder)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{folder / 'report.html'} holds the report of {folder.name}\n"
    assert (folder / "report.html").read_text() == report_page(folder)


def test_one_that_has_not_finished_has_none(study: tuple[StudyKind, Path]) -> None:
    kind, folder = study
    (folder / RESULTS_FILES[kind]).unlink()
    done = espalier("report", folder)
    assert (done.status, done.out) == (2, "")
    assert f"the {kind} study in {folder} has not finished: go on with" in done.err
    assert not (folder / "report.html").exists()
