"""What is printed of a finished search, wherever it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from search.results.report import Results


def print_results(results: Results, next_steps: str, console: Console) -> None:
    """Front, contests, verdict, what went wrong, and what can be done with it."""
    from search.results.report import (  # noqa: PLC0415 - imports torch
        COMPUTE_NOTE,
        contest_table,
        flops_note,
        front_table,
    )

    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(front_table(results))
    console.print(flops_note(results.base), style="dim", markup=False)
    console.print("\nThe best of each kind within each budget", style="bold")
    console.print(contest_table(results))
    console.print(COMPUTE_NOTE, style="dim")
    console.print("\nVerdict", style="bold")
    console.print(results.verdict, markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for job, reason in results.failures.items():
        console.print(f"{job}: {reason}", style="yellow", markup=False)
    console.print(next_steps, markup=False, soft_wrap=True)
