"""`espalier search`: run a search or continue it."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from search.commands.flags import options, overridden
from search.config import RECIPES, SearchConfig, from_mapping, read_toml


@click.command()
@click.option("--config", "config_file", type=click.Path(), help="TOML file; flags override it")
@click.option(
    "--recipe",
    "training__recipe",
    type=click.Choice(list(RECIPES)),
    help="settings of training by which a paper trained; other settings, also of the file, "
    "override them  [default: rni]",
)
@options(SearchConfig)
def search(config_file: str | None, **flags: Any) -> None:
    """Search for smaller networks within a budget; run it again to continue it."""
    content = read_toml(config_file) if config_file else {}
    run_and_print(from_mapping(overridden(content, flags), config_file or "the command line"))


def run_and_print(config: SearchConfig) -> None:
    """Run or continue the search and print what came of it; Ctrl-C ends with status 130."""
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    console = Console(highlight=False)
    from search.runner import run  # noqa: PLC0415 - importing Ray takes seconds

    for number in (signal.SIGTERM, signal.SIGHUP):  # how machines and terminals say Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        result = run(config, console=console)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. What was finished is kept in {config.directory}, and what was under way "
            f"up to its last epoch: go on with  espalier resume {config.name}{_runs(config)}",
            err=True,
        )
        sys.exit(130)
    _print_result(result, config, console)


def _print_result(result: Any, config: SearchConfig, console: Any) -> None:
    from search.report import (  # noqa: PLC0415 - startup stays light
        COMPUTE_NOTE,
        FLOPS_NOTE,
        contest_table,
        front_table,
    )

    results = result.results
    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(front_table(results))
    console.print(FLOPS_NOTE, style="dim")
    console.print("\nThe best of each kind within each budget", style="bold")
    console.print(contest_table(results))
    console.print(COMPUTE_NOTE, style="dim")
    console.print("\nVerdict", style="bold")
    console.print(result.verdict, markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for task, reason in results.failures.items():
        console.print(f"{task}: {reason}", style="yellow", markup=False)
    runs = _runs(config)
    console.print(
        f"\nStored in {result.path}\n"
        f"  compare in MLflow    espalier ui {config.name}{runs}\n"
        f"  read the report      {result.path / 'report.html'}\n"
        f"  list the front       espalier pareto {config.name}{runs}\n"
        f"  take one with you    espalier export {config.name}/{result.front[0].key} "
        f"--out my-network{runs}",
        markup=False,
        soft_wrap=True,
    )


def _runs(config: SearchConfig) -> str:
    return "" if config.runs == SearchConfig.runs else f" --runs {config.runs}"
