"""`python -m mlflow_server --store espalier-runs`: show a store in MLflow's pages."""

import sys
from pathlib import Path

import click

from mlflow_server.errors import MlflowServerError
from mlflow_server.serve import serve


@click.command(name="mlflow_server")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("espalier-runs"),
    show_default=True,
    help="Folder that searches were recorded in.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that other machines reach needs --auth.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--backend-store-uri",
    "database",
    envvar="ESPALIER_DATABASE",
    help="postgresql://USER@HOST/NAME, in place of the store's own database. "
    "ESPALIER_DATABASE sets it without showing a password to others.",
)
@click.option(
    "--artifacts-destination",
    "artifacts",
    help="s3://BUCKET/PATH or a folder, in place of the store's own.",
)
@click.option(
    "--auth",
    "has_auth",
    is_flag=True,
    help="Ask for a password; MLFLOW_AUTH_ADMIN_PASSWORD sets that of admin at first.",
)
def command(
    store: Path,
    host: str,
    port: int,
    *,
    database: str | None,
    artifacts: str | None,
    has_auth: bool,
) -> None:
    """Show the searches of a store in MLflow's pages, until Ctrl-C."""
    serve(
        store,
        host,
        port,
        on_ready=lambda line, _: click.echo(line),
        database=database,
        artifacts=artifacts,
        has_auth=has_auth,
    )


def main() -> None:
    """Run the command; a mistake in what was asked for is one line and exit status 2."""
    try:
        command(standalone_mode=False)
    except click.ClickException as error:
        sys.exit(_fail(error.format_message()))
    except MlflowServerError as error:
        sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return 2


if __name__ == "__main__":
    main()
