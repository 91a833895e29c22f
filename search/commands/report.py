"""`espalier report`: a finished search as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from pruning.errors import ConfigError
from search.commands.common_options import RUNS
from search.commands.server_or_folder import location_of
from search.storage.atomic_files import write_durably


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
    """Write the report of SEARCH, a name or a folder, as one HTML page.

    It holds verdict, plots, costs and commands, and opens offline: nothing in it is loaded from
    elsewhere.
    """
    page, default = location_of(runs).report(search_name)
    target = default if out is None else Path(out)
    try:
        write_durably(target, page)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"{target} holds the report of {Path(search_name).name}")
