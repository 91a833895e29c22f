"""Scores by what networks were pruned to: a row per trial, a column per target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from search.results.contests import Contestant, contestants
from search.results.report import Results
from search.terminal.text_table import text_table


@dataclass(frozen=True)
class TargetRow:
    """One trial: what it tried, and its network at each target, None where there is none."""

    trial: int
    tried: str
    networks: tuple[Contestant | None, ...]


def target_names(results: Results) -> tuple[str, ...]:
    """What the trials were pruned to, in the order of the search; empty without `--targets`."""
    return tuple(dict.fromkeys(o.target for o in results.everything if o.target))


def target_rows(results: Results) -> list[TargetRow]:
    """A row per trial, by number, with a network per target of `target_names`."""
    targets = target_names(results)
    by_place: dict[tuple[int, str], Contestant] = {}
    for entry in contestants(o for o in results.everything if o.target):
        first = entry.runs[0]
        by_place[first.trial or 0, first.target] = entry
    tried = {e.runs[0].trial or 0: e.runs[0].tried for e in by_place.values()}
    return [
        TargetRow(number, tried[number], tuple(by_place.get((number, t)) for t in targets))
        for number in sorted(tried)
    ]


def target_table(results: Results) -> Table:
    """The test score of each trial at each target; means and deviations where seeds allow."""
    targets = target_names(results)
    table = text_table("trial", "method", *targets, numbers=targets)
    for row in target_rows(results):
        table.add_row(str(row.trial), row.tried, *_cells(row.networks, results))
    return table


def _cells(networks: Sequence[Contestant | None], results: Results) -> list[str]:
    return ["–" if entry is None else entry.score_text(results.score) for entry in networks]
