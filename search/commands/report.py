"""`espalier report`: a finished search, or another study, as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS
from search.commands.completions import studies
from search.commands.flags import refuse_without_effect
from search.commands.result_summary import print_recommendations
from search.commands.server_or_folder import location_of
from search.storage.atomic_files import write_durably

if TYPE_CHECKING:
    from search.results import report as results_report
else:
    (results_report,) = lazy_modules("search.results.report")


@click.command()
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@click.option(
    "--out",
    type=click.Path(),
    help="file to write; by default report.html in its folder, SEARCH-report.html here if it is "
    "on a server",
)
@click.option(
    "--json", "as_json", is_flag=True, help="print what it holds as JSON; no page is written"
)
@RUNS
def report(search_name: str, out: str | None, *, as_json: bool, runs: str) -> None:
    """Write the report of SEARCH, a name or a folder, as one HTML page.

    It begins with what to take, holds verdict, plots, costs and commands, and opens offline:
    nothing in it is loaded from elsewhere. That of a family or correlation study holds its table,
    figure, notes and commands.
    """
    location = location_of(runs)
    if as_json:
        refuse_without_effect(("out",), "beside --json, which writes no page")
        click.echo(json.dumps(results_report.report_rows(location.results(search_name)), indent=2))
        return
    kind = location.search(search_name).kind
    page, default = location.report(search_name)
    target = default if out is None else Path(out)
    try:
        write_durably(target, page)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    if kind == "search":
        results = location.results(search_name)
        print_recommendations(results, results.recommendations, Console(highlight=False))
    click.echo(f"{target} holds the report of {Path(search_name).name}")
