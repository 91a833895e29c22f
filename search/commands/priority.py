"""`espalier priority`: which search of a server's queue comes first."""

from __future__ import annotations

import click

from search.commands.completions import studies
from search.commands.server_or_folder import chosen_server


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@click.argument("value", metavar="PRIORITY", type=click.IntRange(-1000, 1000))
def priority(search_name: str, value: int) -> None:
    """Let SEARCH come before those of a lower PRIORITY in a server's queue.

    It is 0 at first, and from -1000 to 1000. This needs the token of an admin.
    """
    server = chosen_server()
    if server is None:
        raise click.UsageError("the queue is a server's: name it with --server or ESPALIER_SERVER")
    server.client.set_priority(search_name, value)
    click.echo(f"{search_name} has priority {value}")
