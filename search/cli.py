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

from pruning.errors import ConfigError, EspalierError, first_line
from search.commands.places import AWARE, Connection
from search.storage.durable import is_disk_full
from search.system.error_log import written
from search.system.exit_status import (
    EXIT_INTERRUPTED,
    EXIT_NOT_NOW,
    EXIT_REFUSED,
    NOT_NOW,
    UNFORESEEN,
    exit_status,
)
from search.terminal.plain_text import make_printable

_COMMANDS = (
    *("search", "list", "watch", "log", "stop", "resume", "priority", "trial", "family"),
    *("correlate", "inspect", "pareto", "report", "export", "latency", "ui", "serve", "token"),
)


class _Commands(click.Group):
    """Imports a command's file when it is asked for: the service does without torch."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"search.commands.{name}")
        return cast(click.Command, getattr(module, name))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="espalier")
@click.option(
    "--server",
    default="",
    envvar="ESPALIER_SERVER",
    show_envvar=True,
    help="address of an `espalier serve`, such as http://HOST:8000, that the command works on: "
    + ", ".join(AWARE),
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
    if server and is_explicit and command not in AWARE:
        raise click.UsageError(f"`espalier {command}` works on this machine: leave out --server")
    context.obj = Connection(server, _token_in(token_file), is_explicit)


def _token_in(file: Path | None) -> str:
    try:
        return "" if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of the token {file} cannot be read: {error}") from error


def main() -> None:
    """Entry point: errors for people become one line and an exit status.

    Those that nobody foresaw become one line and a file, and status 1.
    """
    from mlflow_server.errors import MlflowServerError  # noqa: PLC0415 - startup stays light
    from mlflow_server.reach import reach_loopback_directly  # noqa: PLC0415

    reach_loopback_directly()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps fonts without a home
    make_printable(sys.stdout)
    make_printable(sys.stderr)
    try:
        cli.main(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        _tell(error.format_message())
        sys.exit(EXIT_REFUSED)
    except (EspalierError, MlflowServerError) as error:
        status = exit_status(error)
        _tell(f"{NOT_NOW if status == EXIT_NOT_NOW else ''}{error}")
        sys.exit(status)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        if is_disk_full(error):
            _tell(f"{NOT_NOW}{told}")
            sys.exit(EXIT_NOT_NOW)
        _tell(f"{told}: {UNFORESEEN}: please report it{written(error)}")
        sys.exit(1)


def _tell(message: str) -> None:
    click.echo(f"espalier: {' '.join(message.split())}", err=True)


if __name__ == "__main__":
    main()
