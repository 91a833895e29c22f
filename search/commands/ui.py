"""`espalier ui`: all searches in the MLflow UI."""

from __future__ import annotations

from pathlib import Path

import click

from search.commands.stored import RUNS


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=5000, show_default=True, help="port to listen on; 0 picks one")
@RUNS
def ui(host: str, port: int, runs: str) -> None:
    """Show all searches in the MLflow UI."""
    from mlflow_server.serve import serve  # noqa: PLC0415 - startup stays light

    serve(Path(runs), host, port)
