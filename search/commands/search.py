"""`espalier search`: run a search or continue it."""

from __future__ import annotations

from typing import Any

import click

from search.commands import run_or_watch
from search.commands.common_options import CONFIG
from search.commands.completions import RECIPES
from search.commands.flags import options, overridden
from search.commands.server_or_folder import chosen_server
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping, read_toml
from search.config.training_config import TrainingConfig


@click.command()
@CONFIG
@click.option(
    "--recipe",
    "training__recipe",
    shell_complete=RECIPES,
    help=f"settings of training that are usual or a paper's: {', '.join(TrainingConfig.RECIPES)}; "
    "other settings, also of the file, override them  [default: rni]",
)
@options(SearchConfig)
def search(config_file: str | None, **flags: Any) -> None:
    """Search for smaller networks within a budget; run it again to continue it."""
    content = overridden(read_toml(config_file) if config_file else {}, flags)
    server = chosen_server(may_name_runs=True)
    if server is None:
        origin = config_file or "the command line"
        run_or_watch.run_here(from_mapping(SearchConfig, content, origin))
    else:
        run_or_watch.launch(server, content)
