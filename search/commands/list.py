"""`espalier list`: the searches there are."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import click

from search.commands.places import place_of
from search.commands.stored import RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from search.commands.place import Listed

_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@RUNS
def list(*, as_json: bool, runs: str) -> None:
    """List all searches, the newest first, and how far each of them is."""
    found = place_of(runs).searches()
    if as_json:
        click.echo(json.dumps([one.to_mapping() for one in found], indent=2))
        return
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    if not found:
        click.echo("There are no searches.", err=True)
        return
    console = Console(highlight=False)
    console.print(_table(found))
    for one in found:
        if one.reason:
            console.print(f"{one.name}: {one.reason}", markup=False, soft_wrap=True)


def _table(searches: Sequence[Listed]) -> Table:
    from rich.text import Text  # noqa: PLC0415 - startup stays light

    from pruning.cost import format_count  # noqa: PLC0415
    from search.terminal.text_table import text_table  # noqa: PLC0415

    numbers = ("trials", "best", "FLOPs")
    table = text_table("search", "state", *numbers, "time", numbers=numbers)
    for one in searches:
        table.add_row(
            Text(one.name),
            Text(one.state, style=_STYLES.get(one.state, "")),
            f"{one.trials_done}/{one.trials_planned}" if one.trials_planned else "–",
            f"{one.best['validation_accuracy']:.1%}" if one.best else "–",
            format_count(one.best["flops"]) if one.best else "–",
            _time(one),
        )
    return table


def _time(one: Listed) -> str:
    """What is left, or when it ended, in this machine's time."""
    from search.terminal.durations import duration_text  # noqa: PLC0415 - startup stays light

    if one.seconds_left is not None:
        return f"about {duration_text(one.seconds_left)} left"
    if one.ended_ms is None or not one.is_over:
        return "–"
    return f"ended {datetime.fromtimestamp(one.ended_ms / 1000):%Y-%m-%d %H:%M}"
