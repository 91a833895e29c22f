"""The command line: `espalier COMMAND`, a file in search/commands each.

Bad input gets one line on standard error and exit status 2.
"""

from __future__ import annotations

import importlib
import sys
from typing import cast

import click

from pruning.errors import EspalierError

_COMMANDS = (
    *("search", "resume", "trial", "family", "correlate", "inspect", "pareto", "report"),
    *("export", "latency", "ui", "serve", "token"),
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
def cli() -> None:
    """Search for Pareto-optimal smaller convolutional networks within a budget."""


def main() -> None:
    """Entry point: errors for people become one line and exit status 2."""
    from mlflow_server.errors import MlflowServerError  # noqa: PLC0415 - startup stays light

    try:
        cli.main(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        message = error.format_message()
        click.echo(f"espalier: {' '.join(message.split())}", err=True)
        sys.exit(2)
    except (EspalierError, MlflowServerError) as error:
        click.echo(f"espalier: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
