"""What is printed of a finished search, or another study, wherever it ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from search.results import (
        correlation_report,
        family_results,
        recommendation,
        report,
        target_table,
        verdict,
    )
else:
    correlation_report, family_results, recommendation, report, target_table, verdict = (
        lazy_modules(
            *("search.results.correlation_report", "search.results.family_results"),
            *("search.results.recommendation", "search.results.report"),
            *("search.results.target_table", "search.results.verdict"),
        )
    )


def print_results(results: report.Results, next_steps: str, console: Console) -> None:
    """What to take, then front, contests, how they compare, what went wrong, what comes next."""
    console.print()
    print_recommendations(results, results.recommendations, console)
    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(report.front_table(results))
    console.print(report.score_note(results.score), style="dim", markup=False)
    console.print(report.flops_note(results.base), style="dim", markup=False)
    if target_table.target_names(results):
        console.print(f"\nTest {results.score.name} by target", style="bold", markup=False)
        console.print(target_table.target_table(results))
    console.print("\nThe best of each kind within each budget", style="bold")
    console.print(report.contest_table(results))
    console.print(report.COMPUTE_NOTE, style="dim")
    if results.time_note:
        console.print(results.time_note, style="dim", markup=False)
    console.print("\nHow they compare", style="bold")
    for place, table in report.contrast_tables(results):
        console.print(place, style="bold", markup=False, highlight=False)
        console.print(table)
    for line in verdict.remarks(results.contests, results.contrasts, results.everything):
        console.print(line, style="dim", markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for job, reason in results.failures.items():
        console.print(f"{job}: {reason}", style="yellow", markup=False)
    console.print(next_steps, markup=False, soft_wrap=True)


def print_recommendations(
    results: report.Results, shown: Sequence[recommendation.Recommendation], console: Console
) -> None:
    """What to take within each budget, and what that rests on."""
    for entry in shown:
        console.print(entry.text, style="bold" if entry.chosen else "yellow", markup=False)
    console.print(recommendation.note(results.num_test, results.score), style="dim", markup=False)


def print_family(study: family_results.FamilyStudy, place: str | Path, console: Console) -> None:
    """The table of a family study, what is missing in it, and where everything is.

    place: a folder, or a server.
    """
    title = f"{study.measure.capitalize()}, mean ± deviation over runs"
    console.print(f"\n{title}", style="bold", markup=False)
    console.print(family_results.study_table(study))
    for note in study.notes:
        console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
    for key, reason in study.failures.items():
        console.print(f"{key} failed: {reason}", style="yellow", markup=False)
    console.print(_stored(place), markup=False, soft_wrap=True)


def print_correlation(
    study: correlation_report.CorrelationResults, place: str | Path, console: Console
) -> None:
    """The table of a correlation study, what it is about, and where everything is, as above."""
    console.print("\nCorrelation with the oracle", style="bold")
    console.print(correlation_report.study_table(study))
    for note in correlation_report.study_notes(study):
        console.print(note, style="dim", markup=False)
    console.print(_stored(place), markup=False, soft_wrap=True)


def _stored(place: str | Path) -> str:
    return f"\nStored {'in' if isinstance(place, Path) else 'on'} {place}"
