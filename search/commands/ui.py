"""`espalier ui`: all searches in the MLflow UI, or one of them at views made for it."""

from __future__ import annotations

from pathlib import Path

import click

from search.commands.stored import RUNS


@click.command()
@click.argument("search", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=5000, show_default=True, help="port to listen on; 0 picks one")
@click.option(
    "--open/--no-open", "is_opened", default=False, help="open SEARCH in the web browser at once"
)
@RUNS
def ui(search: str | None, host: str, port: int, is_opened: bool, runs: str) -> None:
    """Show all searches in the MLflow UI.

    With SEARCH, the name of one, also print links to it: its architectures grouped by origin
    with the averages, accuracy against FLOPs with learning curves, and the averages as bars.
    """
    from mlflow_server.serve import serve  # noqa: PLC0415 - startup stays light
    from mlflow_server.store import store_uri  # noqa: PLC0415

    if search is None:
        serve(Path(runs), host, port)
        return
    from mlflow_server.views import LOADED_AT_ONCE, view_links  # noqa: PLC0415

    name = Path(search).name
    uri = store_uri(Path(runs))
    view_links(uri, name)  # an unknown search is refused before the server starts

    def show(line: str, address: str) -> None:
        views = view_links(uri, name, address=address)
        click.echo(line)
        click.echo(f"  table     {views.table}")
        click.echo(f"  charts    {views.chart}")
        click.echo(f"  averages  {views.averages}")
        if views.num_architectures > LOADED_AT_ONCE:
            click.echo(
                f"The pages load {LOADED_AT_ONCE} of {views.num_architectures} architectures, the "
                "best first: averages are theirs until you press `Load more`."
            )
        if is_opened:
            click.launch(views.table)

    serve(Path(runs), host, port, on_ready=show)
