"""`espalier report`: a finished search as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from pruning.errors import ConfigError
from search.commands.places import place_of
from search.commands.stored import RUNS


@click.command()
@click.argument("search_name", metavar="SEARCH")
@click.option(
    "--out",
    type=click.Path(),
    help="file to write; by default report.html in its folder, SEARCH-report.html here if it is "
    "on a server",
)
@RUNS
def report(search_name: str, out: str | None, runs: str) -> None:
    """Write verdict, plots, costs and commands of SEARCH, a name or a folder, as one HTML page.

    The page opens offline: nothing in it is loaded from elsewhere.
    """
    from search.storage.durable import write_durably  # noqa: PLC0415 - startup stays light

    page, default = place_of(runs).report(search_name)
    target = default if out is None else Path(out)
    try:
        write_durably(target, page)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"{target} holds the report of {Path(search_name).name}")
