"""`espalier correlate`: compare criteria with the oracle."""

from __future__ import annotations

import sys
from typing import Any

import click

from search.commands.flags import options, overridden
from search.config.correlation_config import UNUSED_TRAINING, CorrelationConfig
from search.config.settings import from_mapping


@click.command()
@options(CorrelationConfig, without=UNUSED_TRAINING)
def correlate(**flags: Any) -> None:
    """Show how well criteria predict what removing a channel does to the loss.

    The network is trained; then every channel of it is removed in turn, which is the oracle.
    """
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.results.correlation_report import study_notes, study_table  # noqa: PLC0415
    from search.studies.correlation_study import run  # noqa: PLC0415

    config = from_mapping(CorrelationConfig, overridden({}, flags), "the command line")
    console = Console(highlight=False)
    try:
        study = run(config, console=console)
    except KeyboardInterrupt:
        click.echo("\nStopped before there was a result; the same command begins again.", err=True)
        sys.exit(130)
    console.print("\nCorrelation with the oracle", style="bold")
    console.print(study_table(study))
    for note in study_notes(study):
        console.print(note, style="dim", markup=False)
    console.print(f"\nStored in {config.directory}", markup=False, soft_wrap=True)
