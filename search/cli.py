"""The command line: `espalier COMMAND`, a file in search/commands each.

Bad input gets one line on standard error and exit status 2; what may succeed later (a disk is
full, MLflow is away) ends with 75.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import cast

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mlflow_server.errors import MlflowServerError
from mlflow_server.reach import reach_loopback_directly
from pruning.errors import ConfigError, EspalierError, first_line
from search.commands.server_or_folder import SERVER_COMMANDS, Connection
from search.storage.atomic_files import is_disk_full
from search.system.error_log import write_traceback
from search.system.exit_status import (
    EXIT_INTERRUPTED,
    EXIT_NOT_NOW,
    EXIT_REFUSED,
    NOT_NOW,
    UNFORESEEN,
    exit_status,
    in_a_line,
)
from search.terminal.plain_text import make_printable

SUMMARIES = {
    "search": "Search for smaller networks within a budget; run it again to continue it.",
    "list": "List all searches and other studies, the newest first, and how far each of them is.",
    "watch": "Show SEARCH as the terminal that performs it does, from its beginning to its end.",
    "log": "Print what the processes of SEARCH printed.",
    "stop": "End SEARCH, whoever performs it, as Ctrl-C would; it can be continued.",
    "resume": "Continue STUDY, a search or another, whatever ended it.",
    "priority": "Let SEARCH come before those of a lower PRIORITY in a server's queue.",
    "trial": "Make trial NUMBER of SEARCH again and say whether its numbers come out the same.",
    "family": "Show the ladder of networks that PROFILE_OR_ARCH gives rise to.",
    "correlate": "Show how well criteria predict what removing a channel does to the loss.",
    "reproduce": "Run tables and figures of papers again, such as rni/table2 or rni, and compare.",
    "inspect": "Show the channel groups of MODEL: what can be pruned, what it costs, and why not.",
    "pareto": "List the architectures on the front of SEARCH, a name or a folder.",
    "report": "Write the report of SEARCH, a name or a folder, as one HTML page.",
    "export": "Write ARCH, SEARCH/NAME or a folder, as architecture.json and weights.safetensors.",
    "latency": "Measure how long ARCH, SEARCH/NAME or a folder, takes here; stored beside it.",
    "ui": "Show all searches in the MLflow UI.",
    "serve": "Offer searches over HTTP: an API under /v1 and a page at /.",
    "token": "Tokens of a service: once there is one, it asks for them when it is next started.",
    "doctor": "Look at this machine: what a search finds here, what is wrong, and the mend.",
    "completion": "Print the script by which SHELL completes commands, flags and names.",
}
"""The first sentence of every command's help, so that none has to be imported to list them."""


class LazyGroup(click.Group):
    """Commands whose files are imported when they are asked for; their help is known before."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in SUMMARIES:
            return None
        module = importlib.import_module(f"search.commands.{name}")
        return cast(click.Command, getattr(module, name))

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        known = {name: text for name, text in SUMMARIES.items() if name.startswith(incomplete)}
        flags = click.Command.shell_complete(self, context, incomplete)
        return [*(CompletionItem(name, help=text) for name, text in known.items()), *flags]

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="espalier")
@click.option(
    "--server",
    default="",
    envvar="ESPALIER_SERVER",
    show_envvar=True,
    help="address of an `espalier serve`, such as http://HOST:8000, that the command works on: "
    + ", ".join(SERVER_COMMANDS),
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="file that holds the token for --server; by default ESPALIER_TOKEN holds it",
)
@click.pass_context
def cli(context: click.Context, server: str, token_file: Path | None) -> None:
    """Search for Pareto-optimal smaller convolutional networks within a budget."""
    is_explicit = context.get_parameter_source("server") is ParameterSource.COMMANDLINE
    command = context.invoked_subcommand
    if server and is_explicit and command not in SERVER_COMMANDS:
        raise click.UsageError(f"`espalier {command}` works on this machine: leave out --server")
    context.obj = Connection(server, _token_in(token_file), is_explicit)


def _token_in(file: Path | None) -> str:
    try:
        return "" if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of the token {file} cannot be read: {error}") from error


def main() -> None:
    """Entry point: errors for people become one line and an exit status.

    Unforeseen ones become one line and a file, and status 1.
    """
    reach_loopback_directly()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps fonts without a home
    make_printable(sys.stdout)
    make_printable(sys.stderr)
    try:
        cli.main(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        _print_error(error.format_message())
        sys.exit(EXIT_REFUSED)
    except (EspalierError, MlflowServerError) as error:
        _print_error(in_a_line(error))
        sys.exit(exit_status(error))
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)}"
        if is_disk_full(error):
            _print_error(f"{NOT_NOW}{message}")
            sys.exit(EXIT_NOT_NOW)
        _print_error(f"{message}: {UNFORESEEN}: please report it{write_traceback(error)}")
        sys.exit(1)


def _print_error(message: str) -> None:
    click.echo(f"espalier: {' '.join(message.split())}", err=True)


if __name__ == "__main__":
    main()
