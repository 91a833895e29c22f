"""A row per trial and a column per target, whatever is missing."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console
from samples import base_outcome, outcome

from pruning import Budget, Cost
from search.commands.result_summary import print_results
from search.results.contests import contests
from search.results.report import Results, front_rows, to_csv
from search.results.target_table import target_names, target_rows, target_table, target_texts
from search.tasks.score import ACCURACY
from search.trials.jobs import Outcome
from search.trials.pareto import front

TRIED = {0: "rni, strength 0.001, shift 3", 10: "magnitude-l1"}


def pruned(trial: int, percent: int, score: float, repeat: int = 0) -> Outcome:
    suffix = f"-s{repeat}" if repeat else ""
    return outcome(
        f"fine-tuned-{trial}-channels-{percent}pct{suffix}",
        trial=trial,
        target=f"channels={percent}%",
        tried=TRIED[trial],
        flops=100 * percent,
        test_score=score,
    )


EVERYTHING = (
    *(pruned(10, 20, 0.5), pruned(10, 60, 0.75)),
    *(pruned(0, 20, 0.25), pruned(0, 20, 0.75, repeat=1)),
    outcome("uniform-b100", origin="uniform", trial=None),
)


def results(*everything: Outcome) -> Results:
    return Results(
        base=Cost(10_000, 1000),
        budget="flops=100%",
        num_test=100,
        everything=everything,
        front=tuple(front(everything, ACCURACY)),
        contests=contests(everything, [("whole", Budget.parse("flops=10k"))], ACCURACY),
        failures={},
        base_network=base_outcome(test_score=0.9),
    )


def test_rows_are_trials_by_number_and_columns_targets_in_the_order_of_the_search():
    found = results(*EVERYTHING)
    assert target_names(found) == ("channels=20%", "channels=60%")
    first, last = target_rows(found)
    assert (first.trial, first.tried, last.trial, last.tried) == (0, TRIED[0], 10, TRIED[10])
    (repeated, missing), (one, other) = first.networks, last.networks
    assert repeated is not None
    assert (len(repeated.runs), repeated.test_score) == (2, 0.5)
    assert missing is None
    assert [entry and entry.key for entry in (one, other)] == [
        *("fine-tuned-10-channels-20pct", "fine-tuned-10-channels-60pct")
    ]


def printed(found: Results) -> str:
    output = io.StringIO()
    print_results(found, "next", Console(file=output, width=200))
    return output.getvalue()


def test_the_table_is_printed_where_there_are_targets():
    found = results(*EVERYTHING)
    assert [column.header.plain for column in target_table(found).columns] == [
        *("trial", "method", "channels=20%", "channels=60%")
    ]
    text = printed(found)
    assert "Test accuracy by target" in text
    (row,) = (line for line in text.splitlines() if TRIED[0] in line)
    assert row.split()[-1] == "–"
    assert target_texts(found) == [
        ("base", "", "90.0 %", "90.0 %"),
        ("0", TRIED[0], "50.0 ± 35.4 % (−40.0 points)", "–"),
        ("10", TRIED[10], "50.0 % (−40.0 points)", "75.0 % (−15.0 points)"),
    ]
    without = dataclasses.replace(found, base_network=None)
    assert target_texts(without)[-1] == ("10", TRIED[10], "50.0 %", "75.0 %")
    assert "by target" not in printed(results(outcome(), EVERYTHING[-1]))


@pytest.mark.parametrize("kind", [0, -1])
def test_machines_are_told_the_target_and_what_was_tried(kind: int):
    row = front_rows(results(*EVERYTHING), EVERYTHING)[kind]
    assert (row["target"], row["tried"]) == (EVERYTHING[kind].target, EVERYTHING[kind].tried)
    assert "target" not in front_rows(results(outcome()))[0]
    assert to_csv(front_rows(results(*EVERYTHING))).startswith("architecture,origin,")
