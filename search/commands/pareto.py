"""`espalier pareto`: the front of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.console import Console

from pruning.cost import Budget
from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS
from search.commands.completions import studies
from search.commands.result_summary import print_recommendations
from search.commands.server_or_folder import location_of

if TYPE_CHECKING:
    from search.results import contests, recommendation, report
else:
    contests, recommendation, report = lazy_modules(
        *("search.results.contests", "search.results.recommendation", "search.results.report"),
    )


@click.command()
@click.argument("search_name", metavar="SEARCH", shell_complete=studies)
@click.option("--max", "bounds", multiple=True, help="only below, such as flops=5M or params=40k")
@click.option("--json", "form", flag_value="json", help="print JSON")
@click.option("--csv", "form", flag_value="csv", help="print comma-separated values")
@RUNS
def pareto(search_name: str, bounds: tuple[str, ...], form: str | None, runs: str) -> None:
    """List the architectures on the front of SEARCH, a name or a folder."""
    results = location_of(runs).results(search_name)
    limit = Budget.parse(*bounds).absolute(results.base) if bounds else None
    front = [o for o in results.front if limit is None or limit.allows(o.cost)]
    rows = report.front_rows(results, front)
    if form == "json":
        click.echo(report.to_json(rows))
    elif form == "csv":
        click.echo(report.to_csv(rows), nl=False)
    else:
        console = Console(highlight=False)
        print_recommendations(results, _recommended(results, limit), console)
        console.print()
        console.print(report.front_table(results, front))
        console.print(report.score_note(results.score), style="dim", markup=False)
        console.print(report.flops_note(results.base), style="dim", markup=False)


def _recommended(
    results: report.Results, limit: Budget | None
) -> tuple[recommendation.Recommendation, ...]:
    """What to take within the budgets of the search, or within the one that is asked about."""
    if limit is None:
        return results.recommendations
    rungs = [(str(limit), limit)]
    return results.recommended(contests.contests(results.everything, rungs, results.score))
