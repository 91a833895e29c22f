"""What the results say: who chooses, who is called the winner, and what is written down."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from samples import outcome

from pruning import Budget, Cost
from pruning.errors import SearchStateError
from search.pareto import front
from search.report import (
    Results,
    contest_table,
    contests,
    front_rows,
    front_table,
    open_results,
    plot_front,
    to_csv,
    to_json,
)
from search.tasks import ORIGINS, Outcome

BASE = Cost(10_000, 1000)
RUNGS = (("wide", Budget.parse("flops=5000")), ("tight", Budget.parse("flops=1000")))

EVERYTHING = (
    outcome("fine-tuned-0", flops=4000, validation_accuracy=0.90, test_accuracy=0.80),
    outcome("fine-tuned-1", trial=1, flops=900, validation_accuracy=0.70, test_accuracy=0.60),
    outcome(
        "from-scratch-0",
        origin="from-scratch",
        flops=4000,
        validation_accuracy=0.95,
        test_accuracy=0.90,
    ),
    outcome(
        "copycat-0-b100",
        origin="copycat",
        rung=1.0,
        alpha=1.1,
        flops=4900,
        validation_accuracy=0.92,
        test_accuracy=0.85,
    ),
    outcome(
        "uniform-b100",
        origin="uniform",
        trial=None,
        rung=1.0,
        flops=5000,
        validation_accuracy=0.85,
        test_accuracy=0.75,
    ),
    outcome(
        "uniform-b20",
        origin="uniform",
        trial=None,
        rung=0.2,
        flops=1000,
        validation_accuracy=0.75,
        test_accuracy=0.65,
    ),
)


def results(everything: Sequence[Outcome] = EVERYTHING, num_test: int = 400) -> Results:
    return Results(
        base=BASE,
        budget="flops=50%",
        num_test=num_test,
        everything=tuple(everything),
        front=tuple(front(everything)),
        contests=contests(everything, RUNGS),
        failures={"trial 7": "training diverged"},
        notes=("a rung is left out",),
    )


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_contests_are_chosen_by_validation_never_by_test_accuracy():
    lucky = outcome("fine-tuned-2", trial=2, validation_accuracy=0.5, test_accuracy=1.0)
    steady = outcome("fine-tuned-3", trial=3, validation_accuracy=0.6, test_accuracy=0.1)
    (contest,) = contests([lucky, steady], RUNGS[:1])
    assert dict(contest.entries) == {"fine-tuned": steady}


def test_a_contest_admits_what_is_within_its_budget():
    wide, tight = contests(EVERYTHING, RUNGS)
    assert {origin: entry.key for origin, entry in wide.entries.items()} == {
        "fine-tuned": "fine-tuned-0",
        "from-scratch": "from-scratch-0",
        "copycat": "copycat-0-b100",
        "uniform": "uniform-b100",
    }
    assert {origin: entry.key for origin, entry in tight.entries.items()} == {
        "fine-tuned": "fine-tuned-1",
        "uniform": "uniform-b20",
    }


def test_every_bound_of_a_budget_counts_in_a_contest():
    both = Budget.parse("flops=5000", "params=50")
    slim = outcome("fine-tuned-1", params=50, validation_accuracy=0.1)
    (contest,) = contests([*EVERYTHING, slim], [("both", both)])
    assert dict(contest.entries) == {"fine-tuned": slim}


def test_of_equally_accurate_networks_the_cheaper_enters():
    dear, cheap = outcome("fine-tuned-0", flops=900), outcome("fine-tuned-1", flops=800)
    (contest,) = contests([dear, cheap], RUNGS[:1])
    assert contest.entries["fine-tuned"] == cheap


def test_the_verdict_begins_with_the_uniform_network_where_it_is_first():
    first, *_ = results().verdict.splitlines()
    assert "uniform" in first
    assert "1 of 2 budgets" in first


def test_the_verdict_does_not_begin_with_the_uniform_network_where_it_is_not():
    first, *_ = results(EVERYTHING[:-1]).verdict.splitlines()
    assert first.startswith("wide: ")


def test_a_tie_is_no_victory_of_the_uniform_network():
    tied = [outcome(test_accuracy=0.7), outcome("u", origin="uniform", test_accuracy=0.7)]
    assert "came first" not in results(tied).verdict


def test_the_margin_is_two_standard_errors_of_the_difference():
    """2·√((0.9·0.1 + 0.85·0.15) / 400) and 2·√((0.65·0.35 + 0.6·0.4) / 400), in points."""
    lines = results().verdict.splitlines()
    wide, tight = (next(line for line in lines if line.startswith(r)) for r, _ in RUNGS)
    assert "5.0 ± 4.7 points ahead" in wide
    assert "5.0 ± 6.8 points ahead" in tight


@pytest.mark.parametrize(("num_test", "is_clear"), [(400, True), (300, False)])
def test_a_lead_within_the_margin_is_no_victory(num_test, is_clear):
    wide = next(
        line for line in results(num_test=num_test).verdict.splitlines() if "wide: " in line
    )
    assert ("from scratch won" in wide) == is_clear
    assert ("no clear winner" in wide) != is_clear


def test_the_pair_of_each_shape_is_compared():
    (line,) = [line for line in results().verdict.splitlines() if "Shape of trial" in line]
    assert line.startswith("Shape of trial 0, 4k FLOPs: the same shape from scratch won, 10.0 ±")


def test_a_lone_origin_is_compared_with_nothing():
    verdict = results(EVERYTHING[:1]).verdict
    assert "wide: nothing to compare, just pruned and fine-tuned." in verdict
    assert "tight: nothing to compare." in verdict


def test_the_verdict_names_its_caveat():
    assert results().verdict.splitlines()[-1].endswith("on 400 test images.")


def test_results_survive_json():
    content = json.loads(json.dumps(results().to_mapping()))
    assert Results.from_mapping(content) == results()
    assert content["verdict"] == results().verdict


def test_results_are_found_in_the_folder_of_the_search(tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps(results().to_mapping()))
    assert open_results(tmp_path) == results()


def test_a_folder_without_a_search_names_those_beside_it(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.json").write_text("{}")
    with pytest.raises(SearchStateError, match=r"three holds no search: there are one, two$"):
        open_results(tmp_path / "three")
    with pytest.raises(SearchStateError, match=r"x holds no search$"):
        open_results(tmp_path / "none" / "x")


def test_a_search_under_way_is_no_finished_one(tmp_path: Path):
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(SearchStateError, match="has not finished: run its command again"):
        open_results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"contests": 3}', "3"])
def test_damaged_results_are_named(tmp_path: Path, text: str):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(SearchStateError, match=r"results\.json is damaged"):
        open_results(tmp_path)


def test_rows_hold_counts_in_full_and_accuracies_as_fractions():
    (row,) = front_rows(EVERYTHING[:1], BASE)
    assert row == {
        "architecture": "fine-tuned-0",
        "origin": "fine-tuned",
        "flops": 4000,
        "flops_share": 0.4,
        "params": 100,
        "validation_accuracy": 0.9,
        "test_accuracy": 0.8,
        "path": "architectures/fine-tuned-0",
    }


def test_json_and_csv_say_the_same():
    rows = front_rows(EVERYTHING, BASE)
    assert json.loads(to_json(rows)) == rows
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert read == [{name: str(value) for name, value in row.items()} for row in rows]


def test_nothing_is_an_empty_list_and_a_header():
    assert json.loads(to_json([])) == []
    assert len(to_csv([]).splitlines()) == 1


def test_the_front_is_a_table_for_people():
    text = shown(front_table(results().front, BASE))
    header, *rows = text.splitlines()
    assert header.split() == [
        *("architecture", "origin", "FLOPs", "of", "base", "params", "validation", "test")
    ]
    assert [row.split()[0] for row in rows] == [o.key for o in results().front]
    assert rows[-1].split()[1:] == [
        *("from-scratch", "4k", "40.00", "%", "100"),
        "95.00%",
        "90.00%",
    ]


def test_the_contest_table_has_a_column_per_origin():
    header, wide, tight = shown(contest_table(results())).splitlines()
    assert header.split() == ["budget", *ORIGINS]
    assert wide.split() == ["wide", "80.0%", "90.0%", "85.0%", "75.0%"]
    assert tight.split() == ["tight", "60.0%", "–", "–", "65.0%"]


@pytest.mark.parametrize("everything", [EVERYTHING, EVERYTHING[:1]], ids=["several", "one"])
def test_the_plot_is_a_picture(tmp_path: Path, everything: Sequence[Outcome]):
    plot_front(results(everything), tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
