"""`espalier serve`: the service."""

from __future__ import annotations

from pathlib import Path

import click

from search.commands.stored import RUNS

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="another needs --tokens")
@click.option("--port", default=8000, show_default=True, help="port to listen on; 0 picks one")
@click.option("--max-running", default=1, show_default=True, help="searches at once")
@click.option(
    "--database",
    default="",
    envvar="ESPALIER_SERVICE_DATABASE",
    help="sqlite:///FILE or postgresql://USER@HOST/NAME of its records; by default service.db in "
    "--runs. ESPALIER_SERVICE_DATABASE sets it without showing a password to others",
)
@click.option("--tokens", type=_FOLDER, help="file of tokens, see `espalier token create`")
@click.option(
    "--data-root",
    type=_FOLDER,
    default=Path(".data"),
    show_default=True,
    help="folder that holds the data sets and image folders that clients may name",
)
@click.option(
    "--builder",
    "builders",
    multiple=True,
    help="module:callable of a network that clients may name; repeatable",
)
@click.option("--mlflow-url", default="", help="MLflow server to log to; by default its own")
@click.option("--mlflow-port", default=5000, show_default=True, help="port of its own one")
@click.option(
    "--ray-address",
    default="",
    help="job server of a Ray cluster to run searches on, such as http://10.0.0.1:8265; the nodes "
    "share the folders of this machine. By default searches are processes of this machine",
)
@click.option(
    "--ray-python", default="python", show_default=True, help="interpreter on the cluster's nodes"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="name under which others reach this service; repeatable",
)
@RUNS
def serve(
    *,
    host: str,
    port: int,
    max_running: int,
    database: str,
    tokens: Path | None,
    data_root: Path,
    builders: tuple[str, ...],
    mlflow_url: str,
    mlflow_port: int,
    ray_address: str,
    ray_python: str,
    device: str,
    allowed_hosts: tuple[str, ...],
    runs: str,
) -> None:
    """Offer searches over HTTP: an API under /v1, described in /openapi.json, and a page at /.

    Searches are queued and go on after anything is killed, this service included.
    """
    from search.service.server import ServiceConfig, serve  # noqa: PLC0415 - startup stays light

    if max_running < 1:
        raise click.UsageError(f"--max-running must be at least 1, got {max_running}")
    config = ServiceConfig(
        Path(runs),
        host,
        port,
        database,
        max_running,
        tokens,
        data_root,
        builders,
        mlflow_url,
        mlflow_port,
        ray_address,
        ray_python,
        device,
        allowed_hosts,
    )
    serve(config, click.echo)
