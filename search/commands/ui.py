"""`espalier ui`: all searches in the MLflow UI, or one of them at views made for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_server.serve import serve
from mlflow_server.store import store_uri
from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS
from search.commands.completions import studies

if TYPE_CHECKING:
    from mlflow_server import views
else:
    (views,) = lazy_modules("mlflow_server.views")


@click.command()
@click.argument("search", required=False, shell_complete=studies)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=5000, show_default=True, help="port to listen on; 0 picks one")
@click.option(
    "--open/--no-open", "is_opened", default=False, help="open SEARCH in the web browser at once"
)
@RUNS
def ui(search: str | None, host: str, port: int, is_opened: bool, runs: str) -> None:
    """Show all searches in the MLflow UI.

    With SEARCH, the name of one, also print links to it: its architectures grouped by origin
    with the averages, the score against FLOPs with learning curves, and the averages as bars.
    """
    if search is None:
        serve(Path(runs), host, port)
        return
    name = Path(search).name
    uri = store_uri(Path(runs))
    views.view_links(uri, name)  # an unknown search is refused before the server starts

    def show(line: str, address: str) -> None:
        links = views.view_links(uri, name, address=address)
        click.echo(line)
        click.echo(f"  table     {links.table}")
        click.echo(f"  charts    {links.chart}")
        click.echo(f"  averages  {links.averages}")
        if links.num_architectures > views.LOADED_AT_ONCE:
            num_loaded = f"{views.LOADED_AT_ONCE} of {links.num_architectures} architectures"
            click.echo(
                f"The pages load {num_loaded}, the best first: averages are theirs until you "
                "press `Load more`."
            )
        if is_opened:
            click.launch(links.table)

    serve(Path(runs), host, port, on_ready=show)
