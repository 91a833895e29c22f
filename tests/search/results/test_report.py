"""What is written down of a search: results, tables, rows and a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from samples import ABSOLUTE_ERROR, MEAN_IOU, SCORES, base_outcome, outcome

from pruning import Budget, Cost
from pruning.errors import SearchStateError
from search.commands.result_summary import print_results
from search.results.contests import contests
from search.results.figures import front_figure
from search.results.report import (
    Results,
    contest_table,
    contrast_tables,
    front_rows,
    front_table,
    open_results,
    report_rows,
    slack,
    to_csv,
    to_json,
)
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome
from search.trials.pareto import front

BASE = Cost(10_000, 1000)
BASE_NETWORK = base_outcome(validation_score=0.97, test_score=0.94, compute=6e9)
RUNGS = (("wide", Budget.parse("flops=5000")), ("tight", Budget.parse("flops=1000")))

EVERYTHING = (
    outcome("fine-tuned-0", flops=4000, validation_score=0.90, test_score=0.80),
    outcome("fine-tuned-1", trial=1, flops=900, validation_score=0.70, test_score=0.60),
    outcome(
        "from-scratch-0",
        origin="from-scratch",
        flops=4000,
        validation_score=0.95,
        test_score=0.90,
    ),
    outcome(
        "copycat-0-b100",
        origin="copycat",
        rung=1.0,
        alpha=1.1,
        flops=4900,
        validation_score=0.92,
        test_score=0.85,
    ),
    outcome(
        "uniform-b100",
        origin="uniform",
        trial=None,
        rung=1.0,
        flops=5000,
        validation_score=0.85,
        test_score=0.75,
    ),
    outcome(
        "uniform-b20",
        origin="uniform",
        trial=None,
        rung=0.2,
        flops=1000,
        validation_score=0.75,
        test_score=0.65,
    ),
)


def results(
    everything: Sequence[Outcome] = EVERYTHING, num_test: int = 400, score: Score = ACCURACY
) -> Results:
    return Results(
        base=BASE,
        budget="flops=50%",
        num_test=num_test,
        everything=tuple(everything),
        front=tuple(front(everything, score)),
        contests=contests(everything, RUNGS, score),
        failures={"trial 7": "training diverged"},
        notes=("a rung is left out",),
        base_network=BASE_NETWORK,
        score=score,
    )


def shown(table: Table, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_contest_admits_what_is_within_its_budget():
    wide, tight = contests(EVERYTHING, RUNGS, ACCURACY)
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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"limits": Budget.parse("flops=5001"), "base_widths": {"conv": 8}},
        {"base_network": None},
    ],
)
def test_results_survive_json(changes: dict[str, object]):
    found = dataclasses.replace(results(), **changes)
    content = json.loads(json.dumps(found.to_mapping()))
    assert Results.from_mapping(content) == found
    assert content["verdict"] == found.verdict
    sentences = [entry["text"] for entry in content["recommendations"]]
    assert sentences == found.verdict.splitlines()[:2]


def test_the_verdict_is_that_of_its_contests():
    first, *lines, last = results().comparisons
    assert "uniform" in first
    assert "1 of 2 budgets" in first
    assert [line.partition(": ")[0] for line in lines] == [
        *["wide"] * 3,
        "tight",
        "shape of fine-tuned-0, 4k FLOPs",
        *("wide", "tight"),
    ]
    assert lines == [contrast.text for contrast in results().contrasts]
    assert "--seeds" not in last  # no samples were stored, so that nothing is said of networks


def test_the_tables_of_contrasts_say_what_each_comes_to():
    places, tables = zip(*contrast_tables(results()), strict=True)
    assert places == (
        "wide, against uniformly narrowed",
        "tight, against uniformly narrowed",
        "shape of fine-tuned-0, 4k FLOPs, against fine-tuned",
        "wide, against base",
        "tight, against base",
    )
    texts = "".join(map(shown, tables))
    assert texts.count("untested") == 7
    tuned = [
        dataclasses.replace(EVERYTHING[0], key=f"fine-tuned-0-s{n}", seed=n, test_score=score)
        for n, score in ((1, 0.79), (2, 0.80))
    ]
    uniform = [
        outcome(key, test_score=score, seed=n, origin="uniform", trial=None)
        for n, (key, score) in enumerate((("uniform-b1", 0.5), ("uniform-b1-s1", 0.51)))
    ]
    (_, table), *_ = contrast_tables(results([EVERYTHING[0], *tuned, *uniform]))
    row = r"fine-tuned +\+29\.2 \[\+26\.4, \+31\.9\] +0\.00059 +4 × +better"
    assert re.search(row, shown(table))


@pytest.mark.parametrize("width", [50, 60, 80])
def test_the_tables_of_contrasts_fold_on_a_narrow_terminal(width: int):
    """They are not wider than it: what is beyond its edge would be left out."""
    for _, table in contrast_tables(results()):
        wide, narrow = shown(table), shown(table, width)
        assert max(map(len, narrow.splitlines())) <= width
        assert sorted("".join(narrow.split())) == sorted("".join(wide.split()))


def test_the_budget_is_known_exactly_where_the_search_says_so():
    assert results().bounds == Budget.parse("flops=5000")
    exact = dataclasses.replace(results(), budget="flops=12.3k", limits=Budget.parse("flops=12345"))
    assert exact.bounds.limit("flops") == 12345


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
    with pytest.raises(SearchStateError, match="has not finished: go on with `espalier resume"):
        open_results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"contests": 3}', "3"])
def test_damaged_results_are_named(tmp_path: Path, text: str):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(SearchStateError, match=r"results\.json is damaged"):
        open_results(tmp_path)


def test_rows_hold_counts_in_full_and_accuracies_as_fractions():
    (row,) = front_rows(results(), EVERYTHING[:1])
    assert row == {
        "architecture": "fine-tuned-0",
        "origin": "fine-tuned",
        "flops": 4000,
        "flops_share": 0.4,
        "params": 100,
        "slack": {"flops": 0.2},
        "score": "accuracy",
        "validation_score": 0.9,
        "test_score": 0.8,
        "score_against_base": pytest.approx(-0.14),
        "inexact": "",
        "path": "architectures/fine-tuned-0",
    }


def test_json_and_csv_say_the_same():
    rows = front_rows(results(), EVERYTHING)
    assert json.loads(to_json(rows)) == rows
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    for line, row in zip(read, rows, strict=True):
        slack_of = {f"slack.{name}": value for name, value in row.pop("slack").items()}
        assert line == {name: str(value) for name, value in (row | slack_of).items()}


def test_slack_is_what_is_left_of_each_bound():
    limits = Budget.parse("flops=1000", "params=80")
    assert slack(Cost(900, 80), limits) == {"flops": pytest.approx(0.1), "params": 0}
    assert slack(Cost(1100, 100), limits) == {
        "flops": pytest.approx(-0.1),
        "params": pytest.approx(-0.25),
    }


def test_nothing_on_the_front_of_a_search_is_over_its_budget():
    assert all(value >= 0 for row in front_rows(results()) for value in row["slack"].values())
    tight = dataclasses.replace(results(), budget="flops=10%")
    assert [row["slack"]["flops"] < 0 for row in front_rows(tight)] == [
        o.flops > 1000 for o in tight.front
    ]


def test_nothing_is_an_empty_list_and_a_header():
    assert json.loads(to_json([])) == []
    assert len(to_csv([]).splitlines()) == 1


def test_the_front_is_a_table_for_people():
    text = shown(front_table(results()))
    above, header, base, *rows = text.splitlines()
    assert above.split() == ["of", "valida-", "against"]
    assert header.split() == [
        *("architecture", "FLOPs", "base", "params", "slack", "tion", "test", "base"),
    ]
    assert re.split(r"  +", base.strip()) == [
        *("base", "10k", "100 %", "1k", "over", "97.00%", "94.00%", "–"),
    ]
    assert [row.split()[0] for row in rows] == [o.key for o in results().front]
    assert re.split(r"  +", rows[-1].strip())[1:] == [
        *("4k", "40 %", "100", "+20.0 %", "95.00%", "90.00%", "−4.0 points"),
    ]


@pytest.mark.parametrize(
    ("score", "number", "better"),
    [(MEAN_IOU, "75.00%", "more"), (ABSOLUTE_ERROR, "0.65", "less")],
)
def test_nothing_says_accuracy_of_another_score(score: Score, number: str, better: str):
    console = Console(file=io.StringIO(), width=120, highlight=False)
    found = results(score=score)
    print_results(found, "", console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"validation, test: {score.name}; {better} is better" in text
    assert f"test {score.name}" in text
    assert number in text
    assert "accura" not in text
    assert {row["score"] for row in front_rows(found)} == {score.name}


def test_a_lower_error_is_a_gain_in_tables_and_rows():
    found = results(score=ABSOLUTE_ERROR)
    least = next(o for o in EVERYTHING if o.test_score == 0.65)
    (row,) = front_rows(found, [least])
    assert row["score_against_base"] == pytest.approx(0.29)
    assert "0.29 better" in shown(front_table(found, [least]))
    assert "0.29 better" in shown(contest_table(found))


def test_errors_are_ranked_from_the_least():
    found = results(score=ABSOLUTE_ERROR)
    assert [o.key for o in found.front] == ["fine-tuned-1"]
    (wide, _) = found.contests
    least = min(wide.entries.values(), key=lambda entry: entry.test_score)
    assert wide.winner == least


@pytest.mark.parametrize("score", SCORES)
def test_results_keep_their_score(score: Score):
    found = results(score=score)
    content = json.loads(json.dumps(found.to_mapping()))
    assert Results.from_mapping(content) == found
    for part in (content, *content["contests"]):
        del part["score"]
    assert Results.from_mapping(content).score == ACCURACY


def test_tables_do_without_a_base_network_that_was_not_trained():
    found = dataclasses.replace(results(), base_network=None)
    for table in (front_table(found), contest_table(found)):
        text = shown(table)
        assert "against" not in text
        assert "points" not in text
    assert "base" not in {row["origin"] for row in report_rows(found)["networks"]}
    assert report_rows(found)["base"] is None


def test_machines_are_told_what_people_are_told():
    rows = report_rows(results())
    assert [entry["architecture"] for entry in rows["recommendations"]] == [
        *("from-scratch-0", "uniform-b20"),
    ]
    assert rows["base"]["architecture"] == "base"
    assert rows["base"]["score_against_base"] == 0
    assert [row["architecture"] for row in rows["networks"]] == [o.key for o in EVERYTHING]
    assert rows["verdict"] == results().verdict
    assert json.loads(json.dumps(rows)) == rows


def test_names_stay_in_one_line_on_a_terminal_of_80_columns():
    tuned = dataclasses.replace(EVERYTHING[0], key="fine-tuned-12-t50-longer")
    output = io.StringIO()
    Console(file=output, width=80).print(front_table(results([BASE_NETWORK, tuned]), [tuned]))
    assert "fine-tuned-12-t50-longer " in output.getvalue()
    assert "…" not in output.getvalue()


def test_what_was_narrowed_inexactly_is_marked():
    marked = dataclasses.replace(EVERYTHING[0], inexact=("embed", "head.norm"))
    both = results([marked, EVERYTHING[1]])
    *_, exact, inexact = shown(front_table(both)).splitlines()
    assert "fine-tuned-0, narrowed inexactly " in inexact
    assert "inexactly" not in exact
    assert [row["inexact"] for row in front_rows(both)] == ["", "embed, head.norm"]


def test_the_tightest_bound_gives_the_slack_of_the_table():
    both = dataclasses.replace(results(), limits=Budget.parse("flops=8000", "params=125"))
    assert "+20.0 %" in shown(front_table(both, EVERYTHING[:1]))
    over = dataclasses.replace(results(), limits=Budget.parse("flops=8000", "params=99"))
    assert " over " in shown(front_table(over, EVERYTHING[:1])).splitlines()[-1]


REPEATED = (
    *EVERYTHING,
    outcome("from-scratch-0-s1", origin="from-scratch", test_score=0.88, compute=3e9, seed=1),
    outcome("from-scratch-0-longer", origin="from-scratch", equal_compute=True, compute=12.3e9),
    outcome("random-b100", origin="random", trial=None),
)


def test_the_contest_table_has_a_row_per_kind():
    above, header, *rows = shown(contest_table(results(REPEATED))).splitlines()
    assert above.split() == ["of", "test", "against"]
    assert header.split() == ["within", "FLOPs", "base", "compute", "runs", "accuracy", "base"]
    found = [re.split(r"  +", row.strip()) for row in rows]
    assert found == [
        ["base", "10k", "100 %", "6G", "1", "94.0 %", "–"],
        ["wide"],
        ["fine-tuned", "4k", "40 %", "–", "1", "80.0 %", "−14.0 points"],
        [
            *("from scratch, equal epochs", "2.5k", "25 %", "1.5G", "2", "89.0 ± 1.4 %"),
            "−5.0 points",
        ],
        ["from scratch, equal compute", "1k", "10 %", "12.3G", "1", "50.0 %", "−44.0 points"],
        ["copycat", "4.9k", "49 %", "–", "1", "85.0 %", "−9.0 points"],
        ["uniformly narrowed", "5k", "50 %", "–", "1", "75.0 %", "−19.0 points"],
        ["random widths", "1k", "10 %", "–", "1", "50.0 %", "−44.0 points"],
        ["tight"],
        ["fine-tuned", "900", "9 %", "–", "1", "60.0 %", "−34.0 points"],
        ["from scratch, equal compute", "1k", "10 %", "12.3G", "1", "50.0 %", "−44.0 points"],
        ["uniformly narrowed", "1k", "10 %", "–", "1", "65.0 %", "−29.0 points"],
        ["random widths", "1k", "10 %", "–", "1", "50.0 %", "−44.0 points"],
    ]


def test_tables_fit_a_terminal_of_80_columns():
    """Also with names and budgets of some length; a long budget folds."""
    long = outcome("from-scratch-12-longer-s2", flops=123_456, params=123_456, compute=1.23e15)
    label = "flops ≤ 123M (12.3 % of base), params ≤ 123k (12.3 % of base), weight_bytes ≤ 1.23M"
    rungs = ((label, Budget.parse("flops=500k")),)
    found = dataclasses.replace(
        results(REPEATED),
        base=Cost(1_234_567, 123_456),
        limits=Budget.parse("flops=124k"),
        front=(long,),
        contests=contests([*REPEATED, long], rungs, ACCURACY),
    )
    for table in (front_table(found), contest_table(found)):
        text = shown(table, width=80)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("everything", [EVERYTHING, EVERYTHING[:1]], ids=["several", "one"])
def test_the_plot_is_a_picture(tmp_path: Path, everything: Sequence[Outcome]):
    front_figure(results(everything)).savefig(tmp_path / "front.png", dpi=150)
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
