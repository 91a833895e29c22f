"""`espalier report`: a finished search as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from pruning.errors import ConfigError
from search.commands.stored import RUNS, search_folder


@click.command()
@click.argument("search_name", metavar="SEARCH")
@click.option(
    "--out", type=click.Path(), help="file to write; by default report.html in its folder"
)
@RUNS
def report(search_name: str, out: str | None, runs: str) -> None:
    """Write verdict, plots, costs and commands of SEARCH, a name or a folder, as one HTML page.

    The page opens offline: nothing in it is loaded from elsewhere.
    """
    from search.durable import write_durably  # noqa: PLC0415 - startup stays light
    from search.html_report import REPORT_FILE, report_page  # noqa: PLC0415

    folder = search_folder(search_name, runs)
    page = report_page(folder)
    target = folder / REPORT_FILE if out is None else Path(out)
    try:
        write_durably(target, page.encode())
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"{target} holds the report of {folder.name}")
