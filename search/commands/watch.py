"""`espalier watch`: a search that another process performs."""

from __future__ import annotations

import click

from search.commands.places import place_of
from search.commands.stored import RUNS


@click.command()
@click.argument("search_name", metavar="SEARCH")
@RUNS
def watch(search_name: str, runs: str) -> None:
    """Show SEARCH as the terminal that performs it does, from its beginning to its end.

    Ctrl-C ends the watching, not the search.
    """
    place = place_of(runs)
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.commands.following import follow_and_print  # noqa: PLC0415 - imports torch

    follow_and_print(place, search_name, Console(highlight=False))
