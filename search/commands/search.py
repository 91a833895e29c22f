"""`espalier search`: run a search or continue it."""

from __future__ import annotations

import sys
from typing import Any

import click

from search.commands.flags import options, overridden
from search.config import SearchConfig, from_mapping, read_toml


@click.command()
@click.option("--config", "config_file", type=click.Path(), help="TOML file; flags override it")
@options(SearchConfig)
def search(config_file: str | None, **flags: Any) -> None:
    """Search for smaller networks within a budget; run it again to continue it."""
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    content = read_toml(config_file) if config_file else {}
    config = from_mapping(overridden(content, flags), config_file or "the command line")
    console = Console(highlight=False)
    from search.runner import run  # noqa: PLC0415 - importing Ray takes seconds

    try:
        result = run(config, console=console)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. What was finished is kept in {config.directory}; "
            "the same command goes on from there.",
            err=True,
        )
        sys.exit(130)
    _print_result(result, config, console)


def _print_result(result: Any, config: SearchConfig, console: Any) -> None:
    from search.report import FLOPS_NOTE, contest_table, front_table  # noqa: PLC0415 - startup stays light

    results = result.results
    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(front_table(result.front, results.base))
    console.print(FLOPS_NOTE, style="dim")
    console.print("\nTest accuracy of the best of each origin", style="bold")
    console.print(contest_table(results))
    console.print("\nVerdict", style="bold")
    console.print(result.verdict, markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for task, reason in results.failures.items():
        console.print(f"{task} failed: {reason}", style="yellow", markup=False)
    runs = "" if config.runs == SearchConfig.runs else f" --runs {config.runs}"
    console.print(
        f"\nStored in {result.path}\n"
        f"  see it in MLflow     espalier ui{runs}\n"
        f"  list the front       espalier pareto {config.name}{runs}\n"
        f"  take one with you    espalier export {config.name}/{result.front[0].key} "
        f"--out my-network{runs}",
        markup=False,
        soft_wrap=True,
    )
