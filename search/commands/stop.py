"""`espalier stop`: end a search early."""

from __future__ import annotations

import click

from search.commands.places import place_of
from search.commands.stored import RUNS


@click.command()
@click.argument("search_name", metavar="SEARCH")
@RUNS
def stop(search_name: str, runs: str) -> None:
    """End SEARCH, whoever performs it, as Ctrl-C would; it can be continued.

    Returns when it has ended. What was finished is kept, what was under way up to its last epoch.
    """
    place = place_of(runs)
    found = place.stop(search_name)
    if found.state != "stopped":
        click.echo(f"{found.name} has come to its end meanwhile: it is {found.state}")
        return
    networks = found.progress["networks"] if found.progress else 0
    click.echo(
        f"{found.name} is stopped. Kept are {found.trials_done} of {found.trials_planned} trials, "
        f"{networks} networks, and what was under way up to its last epoch: "
        f"go on with  {place.command(search_name, 'resume')}"
    )
