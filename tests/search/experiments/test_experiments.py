"""All experiments of the project: settings fit, claims are the papers', there are pages."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from pruning.errors import DataError
from search.config.search_config import SearchConfig
from search.experiments.claims import verdicts
from search.experiments.definition import SCALES, Claim, Experiment, Scale, names, read
from search.experiments.measurement import Measurement
from search.experiments.page import empty_page, measured_page
from search.experiments.plan import Plan, Where

EXPERIMENTS = Path(__file__).parents[3] / "experiments"

SMALL = Where("small", SearchConfig.runs)
MEASURED = [name for name in names(EXPERIMENTS) if (EXPERIMENTS / f"{name}.json").is_file()]


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
    for paper in expected:  # which runs all of them at the smoke scale
        assert Path(__file__).with_name(f"test_{paper}.py").is_file()


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
def test_every_page_is_what_its_numbers_make_of_it(name: str):
    page, numbers = (EXPERIMENTS / f"{name}.md").read_text(), EXPERIMENTS / f"{name}.json"
    if name not in MEASURED:
        assert page == empty_page(experiment(name), SMALL)
        return
    measured = Measurement.read(numbers)
    assert page == measured_page(experiment(name), SMALL, measured)
    for picture in measured.pictures:
        drawn = numbers.with_name(picture.file)
        assert drawn.is_file()
        assert drawn.with_suffix(".svg").is_file()


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_tells_of_each_ordering_what_the_means_say(name: str):
    """Reckoned here from the JSON alone, by nothing of search.experiments."""
    content = json.loads((EXPERIMENTS / f"{name}.json").read_text())
    mean = {
        (one["part"], one["row"], one["column"]): statistics.fmean(one["values"])
        for one in content["cells"]
    }
    page = (EXPERIMENTS / f"{name}.md").read_text()
    own = experiment(name)
    for claim in own.claims:
        if claim.exact:
            continue
        cells = page.split(f"| {claim.text} |")[1].split("|")
        absent = f"**Does not show here:** {claim.text} (" in page
        if (shows := _shows(own, claim, mean)) is None:
            assert cells[1].strip() == "not told"
            assert f"**Not told here:** {claim.text} (" in page
        else:
            assert absent == (not shows), claim.text
            assert cells[1].strip().startswith(("yes", "on the means") if shows else "**no**")


def _shows(own: Experiment, claim: Claim, mean: dict[tuple[str, str, str], float]) -> bool | None:
    """Whether every higher row is above every lower one; None where something was not run."""
    part = claim.part or own.parts[0].label
    columns = [claim.column] if claim.column else [column.label for column in own.columns]
    if claim.over:
        rows = [(part, row) for row in claim.higher]
        if not all((*row, claim.over) in mean for row in rows):
            return None
        above = [mean[*row, claim.column] - mean[*row, claim.over] for row in rows]
        return min(above) + claim.within > 0
    for high in claim.higher:
        for low in claim.lower:
            both = [
                mean[part, high, column] - mean[part, low, column]
                for column in columns
                if (part, high, column) in mean and (part, low, column) in mean
            ]
            if not both:
                return None
            if statistics.fmean(both) + claim.within <= 0:
                return False
    return True


@pytest.mark.parametrize("name", MEASURED)
def test_what_does_not_show_comes_first_with_what_was_tried(name: str):
    lines = [line for line in (EXPERIMENTS / f"{name}.md").read_text().splitlines()[1:] if line]
    first = list(itertools.takewhile(lambda line: line.startswith("**"), lines))
    answers = [verdict.here for verdict in verdicts(experiment(name), _numbers(name).cells)]
    assert len(first) == len(answers) - answers.count("yes")
    if {"no", "within chance"}.intersection(answers):
        assert lines[len(first)].startswith("What was tried: ")


@pytest.mark.parametrize("name", MEASURED)
def test_its_numbers_are_those_of_the_runs_that_its_file_asks_for_now(name: str):
    runs = Plan(experiment(name), SMALL)
    assert _numbers(name).commands == tuple(run.command for run in runs if run.command)


def _numbers(name: str) -> Measurement:
    return Measurement.read(EXPERIMENTS / f"{name}.json")


ORDERINGS = {
    "RNI over L1 and UCS at 90 %": ("rni/table2", ["RNI"], ["Slimming", "UCS"]),
    "early layers are over-pruned by others": (
        *("rni/figure5", ["Slimming", "Polarization", "DeepHoyer", "UCS"], ["RNI"]),
    ),
    "over-regularised is worse": ("rni/figure4", ["λ, b = 3"], ["10 λ, b = 3"]),
    "under-regularised is worse": ("rni/figure4", ["λ, b = 3"], ["λ/10, b = 3"]),
    "scratch is no worse than fine-tuned": ("copycat/figure1", ["(red)"], ["(blue)"]),
    "copycats are as good as pruned shapes": ("copycat/figure1", ["(blue)"], ["(pink)"]),
    "the k family is below": ("copycat/figure1", ["(yellow)"], ["(pink)"]),
    "the z family is below": ("copycat/figure1", ["(green)"], ["(pink)"]),
    "Taylor over magnitude": ("taylor/figure4", ["Taylor FO"], ["Weight magnitude"]),
    "Taylor agrees with the oracle": (
        *("taylor/table2", ["Gate after BN"], ["Weight magnitude", "BN scale"]),
    ),
    "gates behind batch normalisation": (
        *("taylor/table1", ["Taylor FO, gate after BN2"], ["Taylor FO, gate before BN2"]),
    ),
    "filters and layers over filters": ("scaling_factors/table4", ["Filter+Layer"], ["Filter"]),
    "filters and blocks over blocks": ("scaling_factors/table5", ["Our B+F"], ["Our B"]),
}
"""Of what the papers are read for: the experiment, what is above, what is below (of the curves of
errors, the endings of their labels)."""


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_what_the_papers_are_read_for_is_claimed_and_told(ordering: str):
    name, higher, lower = ORDERINGS[ordering]
    told = [
        verdict.here
        for verdict in verdicts(experiment(name), _numbers(name).cells)
        if _end_in(verdict.claim.higher, higher) and _end_in(verdict.claim.lower, lower)
    ]
    assert {"yes", "within chance", "no"}.intersection(told)


def _end_in(labels: Sequence[str], endings: Sequence[str]) -> bool:
    return len(labels) == len(endings) and all(map(str.endswith, labels, endings))


def test_numbers_that_cannot_be_read_are_refused(tmp_path: Path):
    file = tmp_path / "table.json"
    file.write_text('{"cells": [{"part": ""}]}')
    with pytest.raises(DataError, match=r"table.json holds no numbers of an experiment"):
        Measurement.read(file)


def test_a_page_that_was_not_run_shows_no_number_of_ours():
    page = empty_page(experiment("rni/table2"), Where("small", "runs"))
    assert "**Not run yet at `--scale small`**" in page
    rows = [line for line in page.splitlines() if line.startswith("| RNI |")]
    assert len(rows) == 2
    assert all(cell.strip() == "–" for row in rows for cell in row.split("|")[3::2])
