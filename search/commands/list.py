"""`espalier list`: the searches and other studies there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pruning.cost import format_count
from search.commands.common_options import RUNS
from search.commands.search_location import SearchEntry
from search.commands.server_or_folder import location_of
from search.results.wall_time import shares
from search.tasks.score import ACCURACY
from search.terminal.durations import duration_text
from search.terminal.text_table import text_table

_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}

_LEAST_NAME = 12
"""Characters of a name that stay in one line on the narrowest terminal, so that it can be read."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@RUNS
def list(*, as_json: bool, runs: str) -> None:
    """List all searches and other studies, the newest first, and how far each of them is.

    Training is the share of its workers' time that went into steps of training; --json tells where
    the rest went.
    """
    entries = location_of(runs).searches()
    if as_json:
        click.echo(json.dumps([entry.to_mapping() for entry in entries], indent=2))
        return
    if not entries:
        click.echo("There are no searches.", err=True)
        return
    console = Console(highlight=False)
    console.print(_table(entries))
    for entry in entries:
        if entry.reason:
            console.print(f"{entry.name}: {entry.reason}", markup=False, soft_wrap=True)


def _table(entries: Sequence[SearchEntry]) -> Table:
    numbers = ("trials", "networks", "best", "FLOPs")
    table = text_table("study", "kind", "state", *numbers, "time", numbers=numbers)
    table.columns[0].min_width = min(_LEAST_NAME, max(len(entry.name) for entry in entries))
    for entry in entries:
        table.add_row(
            Text(entry.name),
            entry.kind,
            Text(entry.state, style=_STYLES.get(entry.state, "")),
            f"{entry.trials_done}/{entry.trials_planned}" if entry.trials_planned else "–",
            str(entry.num_networks) if entry.progress else "–",
            _score_text(entry),
            format_count(entry.best["flops"]) if entry.best else "–",
            _time(entry),
        )
    return table


def _score_text(entry: SearchEntry) -> Text:
    """Of the best network so far and of the base; with the score's name where it is no accuracy."""
    shown = [
        f"{before}{entry.score.text(network['validation_score'], 1)}{after}"
        for before, network, after in (("", entry.best, ""), ("(base ", entry.base, ")"))
        if network
    ]
    name = [] if entry.score.name == ACCURACY.name or not shown else [entry.score.name]
    return Text(" ".join([*name, *shown]) or "–")


def _time(entry: SearchEntry) -> str:
    """What is left, or when it ended, in this machine's time, and how much of it was training."""
    if entry.seconds_left is not None:
        told = f"about {duration_text(entry.seconds_left)} left"
    elif entry.ended_ms is None or not entry.is_over:
        return "–"
    else:
        told = f"ended {datetime.fromtimestamp(entry.ended_ms / 1000):%Y-%m-%d %H:%M}"
    if not entry.wall_seconds:
        return told
    return f"{told}, {100 * shares(entry.wall_seconds)['steps']:.0f} % training"
