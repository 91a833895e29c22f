"""`espalier correlate`: compare criteria with the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from pruning.lazy_imports import lazy_modules
from search.commands import run_or_watch
from search.commands.common_options import CONFIG
from search.commands.flags import options, overridden
from search.commands.interrupts import ending_on_interrupt, interrupt_on_signals
from search.commands.result_summary import print_correlation
from search.commands.server_or_folder import chosen_server
from search.config.correlation_config import (
    UNUSED_RESOURCES,
    UNUSED_TRAINING,
    CorrelationConfig,
)
from search.config.settings import from_mapping, read_toml

if TYPE_CHECKING:
    from search.studies import correlation_study
else:
    (correlation_study,) = lazy_modules("search.studies.correlation_study")


@click.command()
@CONFIG
@options(CorrelationConfig, without=(*UNUSED_TRAINING, *UNUSED_RESOURCES))
def correlate(config_file: str | None, **flags: Any) -> None:
    """Show how well criteria predict what removing a channel does to the loss.

    The network is trained; then every channel of it is removed in turn, which is the oracle.
    """
    content = overridden(read_toml(config_file) if config_file else {}, flags)
    server = chosen_server(may_name_runs=True)
    if server is not None:
        run_or_watch.launch(server, content, "correlation")
        return
    config = from_mapping(CorrelationConfig, content, config_file or "the command line")
    console = Console(highlight=False)
    interrupt_on_signals()
    with ending_on_interrupt(
        "Stopped. The training is kept up to its last checkpoint: the same command goes on from "
        "there."
    ):
        study = correlation_study.run(config, console=console)
    print_correlation(study, config.directory, console)
