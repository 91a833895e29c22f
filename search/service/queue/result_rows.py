"""Rows of the database made from what a search writes into its folder: events and results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from search.service.database.tables import ArchitectureRow
from search.storage.layout import RESULTS_FILES, StudyKind
from search.tasks.score import Score
from search.tracking.event_file import Event
from search.trials.pareto import front, without_base


def newest_frame(events: Iterable[Event]) -> dict[str, Any] | None:
    """What a front is read against: base cost, limits, score, and the lines of the preflight.

    None where no process has begun the search.
    """
    launched = [event for event in events if event["event"] == "launched"]
    names = ("base", "limits", "lines", "score")
    return {name: launched[-1].get(name) for name in names} if launched else None


def architecture_rows(search_id: str, events: Iterable[Event]) -> list[ArchitectureRow]:
    """The architectures that these events tell of, each once, the newest of the same key."""
    outcomes = {
        outcome["key"]: outcome
        for event in events
        if event["event"] == "finished"
        for outcome in event["outcomes"]
    }
    return [architecture_row(search_id, outcome) for outcome in outcomes.values()]


def architecture_row(
    search_id: str, outcome: Mapping[str, Any], *, on_front: bool = False
) -> ArchitectureRow:
    """The row of an outcome, which is a search.trials.jobs.Outcome as a mapping."""
    names = ("key", "origin", "flops", "params", "validation_score")
    return ArchitectureRow(
        search_id=search_id,
        on_front=on_front,
        outcome=dict(outcome),
        **{name: outcome[name] for name in names},
    )


def finished_rows(kind: StudyKind, folder: Path) -> list[ArchitectureRow]:
    """The architectures of a finished study, its base network first, from its results file.

    None of a correlation study, whose one network its events alone tell of.
    """
    results = json.loads((folder / RESULTS_FILES[kind]).read_text(encoding="utf-8"))
    if kind == "correlation":
        _ = results["criteria"]  # which a damaged file lacks
        return []
    outcomes = results["everything"] if kind == "search" else _own_outcomes(results)
    base = results.get("base_network")
    rows = [
        architecture_row(folder.name, outcome)
        for outcome in ([] if base is None else [base]) + outcomes
    ]
    if kind == "family":
        return marked_front(rows, Score.from_mapping(results["score"]))
    front_keys = {outcome["key"] for outcome in results["front"]}
    for row in rows:
        row.on_front = row.key in front_keys
    return rows


def _own_outcomes(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a family study: the networks of searches that it shows too are theirs."""
    return [run["outcome"] for run in results["runs"] if not run["search"]]


def marked_front(rows: list[ArchitectureRow], score: Score) -> list[ArchitectureRow]:
    """The rows, of which those that no other one beats are on the front."""
    for row in front(without_base(rows), score):
        row.on_front = True
    return rows
