"""`espalier log`: what the processes of a search printed."""

from __future__ import annotations

import click

from pruning.errors import SearchStateError
from search.commands.common_options import RUNS
from search.commands.completions import studies
from search.commands.interrupts import ending_on_interrupt
from search.commands.server_or_folder import location_of


@click.command()
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@click.option("--follow", "-f", is_flag=True, help="go on until SEARCH is over")
@RUNS
def log(search_name: str, *, follow: bool, runs: str) -> None:
    """Print what the processes of SEARCH printed.

    A service keeps a log of those that it starts. Ctrl-C ends the following, not the search.
    """
    has_log = False
    with ending_on_interrupt():
        for text in location_of(runs).log(search_name, follow=follow):
            has_log = True
            click.echo(text, nl=False)
    if not has_log:
        raise SearchStateError(
            f"{search_name} has no log: a service keeps one of the processes that it starts; what "
            "a terminal performs is printed there, and `espalier watch` shows it again"
        )
