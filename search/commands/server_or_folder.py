"""Which searches a command works on: those of a server, or those in the folder of --runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from search import client
    from search.commands import remote_server, runs_folder
    from search.commands.search_location import SearchLocation
else:
    client, remote_server, runs_folder = lazy_modules(
        "search.client", "search.commands.remote_server", "search.commands.runs_folder"
    )

SERVER_COMMANDS = (
    *("search", "family", "correlate", "list", "watch", "log", "stop", "resume"),
    *("priority", "pareto", "export", "report", "doctor"),
)
"""Commands that work on a server too."""


@dataclass(frozen=True)
class Connection:
    """What was said of a server before the command.

    url: empty for none.  token: empty for that of the environment.
    is_explicit: whether the command line said so, not the environment.
    """

    url: str
    token: str
    is_explicit: bool


def location_of(runs: str) -> SearchLocation:
    """The server, if one was given; otherwise the folder."""
    return chosen_server() or runs_folder.RunsFolder(runs)


def chosen_server(*, may_name_runs: bool = False) -> remote_server.RemoteServer | None:
    """The server that this command is to work on; None if it is to work here.

    --runs on the command line is stronger than a server of the environment, and a contradiction
    to one on the command line.  may_name_runs: let the server say so.
    """
    context = click.get_current_context()
    connection = context.find_object(Connection)
    if connection is None or not connection.url:
        return None
    if context.get_parameter_source("runs") is ParameterSource.COMMANDLINE:
        if not connection.is_explicit:
            return None
        if not may_name_runs:
            raise click.UsageError("--runs is a folder of this machine: leave out one of them")
    http = client.Client(connection.url, connection.token)
    context.call_on_close(http.close)
    return remote_server.RemoteServer(http)
