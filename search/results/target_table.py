"""Scores by what networks were pruned to: a row per trial, a column per target."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from search.results.contests import Contestant, contestants
from search.results.recommendation import against_base
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


def target_texts(results: Results) -> list[tuple[str, ...]]:
    """The rows in words: trial, method, and per target a test score and what it gave up.

    Means and deviations where seeds allow. The base network is the first, if it was trained.
    """
    rows = [
        (str(row.trial), row.tried, *(_text(entry, results) for entry in row.networks))
        for row in target_rows(results)
    ]
    if rows and results.base_network is not None:
        text = _text(Contestant((results.base_network,)), results)
        rows.insert(0, ("base", "", *[text] * len(target_names(results))))
    return rows


def target_table(results: Results) -> Table:
    """`target_texts` under the names of the targets."""
    targets = target_names(results)
    table = text_table("trial", "method", *targets, numbers=targets)
    for texts in target_texts(results):
        table.add_row(*texts)
    return table


def _text(entry: Contestant | None, results: Results) -> str:
    if entry is None:
        return "–"
    base, text = results.base_network, entry.score_text(results.score)
    if base is None or entry.origin == base.origin:
        return text
    gain = against_base(entry.test_score, base, results.score)
    return f"{text} ({results.score.gain_text(gain)})"
