"""Rows of the database made from what a search writes into its folder: events and results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from search.service.database.tables import ArchitectureRow
from search.storage.layout import RESULTS_FILE
from search.tracking.event_file import Event


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


def finished_rows(search_id: str, folder: Path) -> list[ArchitectureRow]:
    """The architectures of a finished search, and its base network, from its results file."""
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    front_keys = {outcome["key"] for outcome in results["front"]}
    base = results.get("base_network")
    return [
        architecture_row(search_id, outcome, on_front=outcome["key"] in front_keys)
        for outcome in ([] if base is None else [base]) + results["everything"]
    ]
