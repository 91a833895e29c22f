"""`espalier log`: what the processes of a search printed."""

from __future__ import annotations

import sys

import click

from pruning.errors import SearchStateError
from search.commands.places import place_of
from search.commands.stored import RUNS
from search.system.exit_status import EXIT_INTERRUPTED


@click.command()
@click.argument("search_name", metavar="SEARCH")
@click.option("--follow", "-f", is_flag=True, help="go on until SEARCH is over")
@RUNS
def log(search_name: str, *, follow: bool, runs: str) -> None:
    """Print what the processes of SEARCH printed, which a service performs or has performed.

    Ctrl-C ends the following, not the search.
    """
    has_log = False
    try:
        for text in place_of(runs).log(search_name, follow=follow):
            has_log = True
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if not has_log:
        raise SearchStateError(
            f"{search_name} has no log: a service keeps one of the processes that it starts; what "
            "a terminal performs is printed there, and `espalier watch` shows it again"
        )
