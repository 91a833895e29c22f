"""What is printed of a finished search, wherever it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from search.results import report
else:
    (report,) = lazy_modules("search.results.report")


def print_results(results: report.Results, next_steps: str, console: Console) -> None:
    """Front, contests, verdict, what went wrong, and what can be done with it."""
    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(report.front_table(results))
    console.print(report.flops_note(results.base), style="dim", markup=False)
    console.print("\nThe best of each kind within each budget", style="bold")
    console.print(report.contest_table(results))
    console.print(report.COMPUTE_NOTE, style="dim")
    console.print("\nVerdict", style="bold")
    console.print(results.verdict, markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for job, reason in results.failures.items():
        console.print(f"{job}: {reason}", style="yellow", markup=False)
    console.print(next_steps, markup=False, soft_wrap=True)
