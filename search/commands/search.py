"""`espalier search`: run a search or continue it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from search.commands.conclusion import print_results
from search.commands.flags import options, overridden
from search.commands.places import asked_server
from search.commands.runs_folder import RunsFolder
from search.config.explicit_settings import settings_key
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping, read_toml
from search.config.training_config import TrainingConfig

if TYPE_CHECKING:
    from search.commands.server import Server


@click.command()
@click.option("--config", "config_file", type=click.Path(), help="TOML file; flags override it")
@click.option(
    "--recipe",
    "training__recipe",
    type=click.Choice(list(TrainingConfig.RECIPES)),
    help="settings of training by which a paper trained; other settings, also of the file, "
    "override them  [default: rni]",
)
@options(SearchConfig)
def search(config_file: str | None, **flags: Any) -> None:
    """Search for smaller networks within a budget; run it again to continue it."""
    content = overridden(read_toml(config_file) if config_file else {}, flags)
    server = asked_server(may_name_runs=True)
    if server is None:
        run_and_print(from_mapping(SearchConfig, content, config_file or "the command line"))
    else:
        launch_and_print(server, content)


def launch_and_print(server: Server, content: Mapping[str, Any]) -> None:
    """Launch the search on the server, or go on with the one that these settings began there.

    Prints what came of it; Ctrl-C ends with status 130 and leaves the search alone.
    """
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.commands.following import follow_and_print  # noqa: PLC0415

    found = server.client.launch(content, key=settings_key(content))
    name = found["id"]
    if found["state"] in ("failed", "stopped"):
        server.client.resume(name)
    console = Console(highlight=False)
    if name != found["name"]:
        console.print(
            f"{server.client.url} has another {found['name']}: this search is {name} there",
            markup=False,
            soft_wrap=True,
        )
    for line in found["preflight"]:
        console.print(line, highlight=False, soft_wrap=True)
    follow_and_print(server, name, console, told=found["preflight"])


def run_and_print(config: SearchConfig) -> None:
    """Run or continue the search and print what came of it; Ctrl-C ends with status 130."""
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    console = Console(highlight=False)
    from search.models import own_module  # noqa: PLC0415 - startup stays light
    from search.studies.search_study import run  # noqa: PLC0415 - importing Ray takes seconds

    place = RunsFolder(config.runs, own_module(config.model))
    for number in (signal.SIGTERM, signal.SIGHUP):  # how machines and terminals say Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        result = run(config, console=console)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. What was finished is kept in {config.directory}, and what was under way "
            f"up to its last epoch: go on with  {place.command(str(config.directory), 'resume')}",
            err=True,
        )
        sys.exit(130)
    print_results(result.results, place.next_steps(str(config.directory), result.results), console)
