"""The command line: `espalier COMMAND`, a file in search/commands each.

Bad input gets one line on standard error and exit status 2.
"""

from __future__ import annotations

import sys

import click

from pruning.errors import EspalierError
from search.commands.correlate import correlate
from search.commands.export import export
from search.commands.family import family
from search.commands.inspect import inspect
from search.commands.latency import latency
from search.commands.pareto import pareto
from search.commands.report import report
from search.commands.resume import resume
from search.commands.search import search
from search.commands.serve import serve
from search.commands.token import token
from search.commands.trial import trial
from search.commands.ui import ui


@click.group(
    commands=[
        search,
        resume,
        trial,
        family,
        correlate,
        inspect,
        pareto,
        report,
        export,
        latency,
        ui,
        serve,
        token,
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
