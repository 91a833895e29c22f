"""`espalier trial`: make one trial of a search again, alone."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from typing import Any

import click

from search.commands.flags import some_options
from search.commands.resume import stored_config
from search.commands.stored import RUNS, TRUST
from search.config.search_config import SearchConfig


@click.command()
@click.argument("name", metavar="SEARCH")
@click.argument("number", type=click.IntRange(0))
@some_options(SearchConfig, ("device",))
@TRUST
@RUNS
def trial(name: str, number: int, runs: str, trust: tuple[str, ...], **flags: Any) -> None:
    """Make trial NUMBER of SEARCH again and say whether its numbers come out the same.

    It runs in this process, with as many threads as it had; SEARCH is left as it is. Exit status
    1 says that a number differs.
    """
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.studies.rerun import comparison_table, rerun  # noqa: PLC0415 - importing Ray takes seconds

    config = stored_config(name, runs, flags, trust)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        try:
            again = rerun(config, number, dataclasses.replace(config, runs=folder), console)
        except KeyboardInterrupt:
            click.echo("\nStopped; nothing of it is kept.", err=True)
            sys.exit(130)
    console.print(comparison_table(again))
    if again.is_unfinished:
        console.print(f"In the search trial {number} was {again.before}.", markup=False)
    elif again.is_equal:
        console.print(f"Trial {number} comes out the same.", style="green")
    else:
        console.print(f"Trial {number} comes out differently.", style="yellow")
        if again.moved:
            told = f"Numbers may differ in their last digits: {', '.join(again.moved)}."
            console.print(told, markup=False, soft_wrap=True)
        sys.exit(1)
