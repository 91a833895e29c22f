"""Which place a command works on: --server, the environment's, or the folder of --runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from search.commands.place import Place

if TYPE_CHECKING:
    from search.commands.server import Server

AWARE = (
    *("search", "list", "watch", "log", "stop", "resume", "priority"),
    *("pareto", "export", "report"),
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


def place_of(runs: str) -> Place:
    """The server, if one was given; otherwise the folder."""
    server = asked_server()
    if server is not None:
        return server
    from search.commands.runs_folder import RunsFolder  # noqa: PLC0415 - startup stays light

    return RunsFolder(runs)


def asked_server(*, may_name_runs: bool = False) -> Server | None:
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
    from search.client import Client  # noqa: PLC0415 - startup stays light
    from search.commands.server import Server  # noqa: PLC0415

    client = Client(connection.url, connection.token)
    context.call_on_close(client.close)
    return Server(client)
