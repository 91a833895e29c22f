"""`espalier correlate`: compare criteria with the oracle."""

from __future__ import annotations

import sys
from typing import Any

import click

from search.commands.flags import options, overridden
from search.config.correlation_config import UNUSED_TRAINING, CorrelationConfig
from search.config.options import tables


@click.command()
@options(CorrelationConfig, without=UNUSED_TRAINING)
def correlate(**flags: Any) -> None:
    """Show how well criteria predict what removing a channel does to the loss.

    The network is trained; then every channel of it is removed in turn, which is the oracle.
    """
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.results.correlation_report import study_notes, study_table  # noqa: PLC0415
    from search.studies.correlation_study import run  # noqa: PLC0415

    given = overridden({}, flags)
    filled = {name: cls(**given.pop(name, {})) for name, cls in tables(CorrelationConfig).items()}
    config = CorrelationConfig(**given, **filled)
    console = Console(highlight=False)
    try:
        study = run(config, console=console)
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The training is kept up to its last epoch: the same command goes on from "
            "there.",
            err=True,
        )
        sys.exit(130)
    console.print("\nCorrelation with the oracle", style="bold")
    console.print(study_table(study))
    for note in study_notes(study):
        console.print(note, style="dim", markup=False)
    console.print(f"\nStored in {config.directory}", markup=False, soft_wrap=True)
