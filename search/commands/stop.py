"""`espalier stop`: end a search early."""

from __future__ import annotations

import click

from search.commands.common_options import RUNS
from search.commands.completions import studies
from search.commands.server_or_folder import location_of


@click.command()
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@RUNS
def stop(search_name: str, runs: str) -> None:
    """End SEARCH, whoever performs it, as Ctrl-C would; it can be continued.

    Returns when it has ended. What was finished is kept, what was under way up to its last
    checkpoint.
    """
    location = location_of(runs)
    entry = location.stop(search_name)
    if entry.state != "stopped":
        click.echo(f"{entry.name} has come to its end meanwhile: it is {entry.state}")
        return
    trials = ""
    if entry.kind == "search":
        trials = f"{entry.trials_done} of {entry.trials_planned} trials, "
    resume = location.command(search_name, "resume")
    click.echo(
        f"{entry.name} is stopped. Kept are {trials}{entry.num_networks} networks, and "
        f"what was under way up to its last checkpoint: go on with  {resume}"
    )
