"""`espalier watch`: a search that another process performs."""

from __future__ import annotations

import click
from rich.console import Console

from search.commands import run_or_watch
from search.commands.common_options import RUNS
from search.commands.completions import studies
from search.commands.server_or_folder import location_of


@click.command()
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@RUNS
def watch(search_name: str, runs: str) -> None:
    """Show SEARCH as the terminal that performs it does, from its beginning to its end.

    Ctrl-C ends the watching, not the search.
    """
    run_or_watch.watch(location_of(runs), search_name, Console(highlight=False))
