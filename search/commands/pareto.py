"""`espalier pareto`: the front of a search."""

from __future__ import annotations

import click

from search.commands.places import place_of
from search.commands.stored import RUNS


@click.command()
@click.argument("search_name", metavar="SEARCH")
@click.option("--max", "bounds", multiple=True, help="only below, such as flops=5M or params=40k")
@click.option("--json", "form", flag_value="json", help="print JSON")
@click.option("--csv", "form", flag_value="csv", help="print comma-separated values")
@RUNS
def pareto(search_name: str, bounds: tuple[str, ...], form: str | None, runs: str) -> None:
    """List the architectures on the front of SEARCH, a name or a folder."""
    place = place_of(runs)
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from pruning.cost import Budget  # noqa: PLC0415
    from search.results.report import (  # noqa: PLC0415
        flops_note,
        front_rows,
        front_table,
        to_csv,
        to_json,
    )

    results = place.results(search_name)
    limit = Budget.parse(*bounds).absolute(results.base) if bounds else None
    found = [o for o in results.front if limit is None or limit.allows(o.cost)]
    rows = front_rows(results, found)
    if form == "json":
        click.echo(to_json(rows))
    elif form == "csv":
        click.echo(to_csv(rows), nl=False)
    else:
        console = Console(highlight=False)
        console.print(front_table(results, found))
        console.print(flops_note(results.base), style="dim", markup=False)
