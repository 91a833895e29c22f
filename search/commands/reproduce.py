"""`espalier reproduce`: a table or figure of a paper, run again and held against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS
from search.commands.flags import refuse_without_effect
from search.commands.interrupts import ending_on_interrupt, interrupt_on_signals
from search.terminal.text_table import text_table

if TYPE_CHECKING:
    from search.experiments import definition, plan, reproduction
    from search.experiments.claims import Verdict
    from search.experiments.definition import Experiment
    from search.scheduling import own_ray
else:
    definition, plan, reproduction, own_ray = lazy_modules(
        *("search.experiments.definition", "search.experiments.plan"),
        *("search.experiments.reproduction", "search.scheduling.own_ray"),
    )


@click.command()
@click.argument("wanted", metavar="[LIST]...", nargs=-1)
@click.option(
    "--scale",
    type=click.Choice(("smoke", "small", "paper")),
    default="small",
    show_default=True,
    help="smoke: a minute; small: an hour on two cores; paper: the authors' settings, for a GPU",
)
@click.option("--data", default="", help="other data than the experiment's, as of a search")
@click.option(
    "--experiments",
    default="experiments",
    show_default=True,
    type=click.Path(path_type=Path),
    help="folder of the experiments, a folder per paper",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of pages and figures; by default theirs"
)
@click.option("--dry-run", is_flag=True, help="print the commands of all runs, and run nothing")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto")
@RUNS
def reproduce(
    wanted: tuple[str, ...],
    *,
    scale: str,
    data: str,
    experiments: Path,
    out: Path | None,
    dry_run: bool,
    device: str,
    runs: str,
) -> None:
    """Run tables and figures of papers again, such as rni/table2 or rni, and compare.

    Without a LIST they are listed. Each has a page of the paper's numbers beside those from here,
    and says whether the ordering that the paper claims shows. Its runs are ordinary studies: run
    it again to go on with what was stopped.
    """
    console = Console(highlight=False)
    if not wanted:
        refuse_without_effect(("scale", "data", "out", "dry_run", "device"), "on the list")
        _list(experiments, console)
        return
    where = plan.Where(scale, runs, data, device)  # type: ignore[arg-type]
    chosen = definition.chosen(experiments, wanted)
    plans = [plan.Plan(experiment, where) for experiment in chosen]  # all settings fit
    if dry_run:
        for line in (run.command for each in plans for run in each if run.command):
            click.echo(line)
        return
    reproduction.require_data(plans)
    interrupt_on_signals()
    stopped = f"Stopped. What was finished is kept in {runs}; the same command goes on from there."
    with ending_on_interrupt(stopped), own_ray.one_ray():  # for all runs
        for experiment in chosen:
            made = reproduction.reproduce(experiment, where, out or experiments, console)
            _show(experiment, *made, console)


def _show(
    experiment: Experiment, page: Path, verdicts: Sequence[Verdict], console: Console
) -> None:
    console.print(f"\n{experiment.source}: {experiment.title}", style="bold", markup=False)
    for one in verdicts:
        console.print(f"{one.here}: {one.claim.text} ({one.detail})", markup=False)
    console.print(f"{page} holds all numbers", markup=False, soft_wrap=True)


def _list(folder: Path, console: Console) -> None:
    table = text_table("experiment", "source", "what it shows")
    for name in definition.names(folder):
        experiment = definition.read(folder / f"{name}.toml", name)
        table.add_row(name, experiment.source, experiment.title)
    console.print(table)
