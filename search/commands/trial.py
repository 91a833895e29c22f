"""`espalier trial`: make one trial of a search again, alone."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS, TRUST
from search.commands.completions import studies
from search.commands.flags import some_options
from search.commands.interrupts import ending_on_interrupt
from search.commands.resume import stored_config
from search.config.search_config import SearchConfig

if TYPE_CHECKING:
    from search.studies import rerun
else:
    (rerun,) = lazy_modules("search.studies.rerun")


@click.command()
@click.argument("name", metavar="SEARCH", shell_complete=studies)
@click.argument("number", type=click.IntRange(0))
@some_options(SearchConfig, ("device",))
@TRUST
@RUNS
def trial(name: str, number: int, runs: str, trust: tuple[str, ...], **flags: Any) -> None:
    """Make trial NUMBER of SEARCH again and say whether its numbers come out the same.

    It runs in this process, with as many threads as it had; SEARCH is left as it is. Exit status
    1 says that a number differs.
    """
    config = stored_config(name, runs, flags, trust)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        elsewhere = dataclasses.replace(config, runs=folder)
        with ending_on_interrupt("Stopped; nothing of it is kept."):
            again = rerun.rerun(config, number, elsewhere, console)
    console.print(rerun.comparison_table(again))
    if again.is_unfinished:
        console.print(f"In the search trial {number} was {again.before}.", markup=False)
    elif again.is_equal:
        console.print(f"Trial {number} comes out the same.", style="green")
    else:
        console.print(f"Trial {number} comes out differently.", style="yellow")
        if again.moved:
            note = f"Numbers may differ in their last digits: {', '.join(again.moved)}."
            console.print(note, markup=False, soft_wrap=True)
        sys.exit(1)
