"""The end of a search: its networks are certified and compared, and its files are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pruning.cost import Budget, format_count
from pruning.errors import ArchitectureError, SearchFailedError
from search.results import recommendation
from search.results.compute_breakdown import compute_breakdown
from search.results.contests import contests
from search.results.figures import front_figure
from search.results.html_report import REPORT_FILE, report_page
from search.results.pictures import draw_all
from search.results.report import Results
from search.results.statistics.test_samples import TestSamples
from search.storage.atomic_files import write_durably
from search.storage.layout import EVENTS_FILE, FIGURES, RESULTS_FILE
from search.studies.session import Session
from search.tracking.event_file import EventFile
from search.trials.certification import certify
from search.trials.jobs import Outcome
from search.trials.pareto import front, without_base
from search.trials.preflight import Preflight

PLOT_FILE = FIGURES["search"]


def certified_results(session: Session, outcomes: Sequence[Outcome]) -> Results:
    """What the search found, of networks whose folders rebuild to the stated cost.

    Raises SearchFailedError if there is none within the budget.
    """
    config, preflight = session.context.config, session.context.preflight
    certified = [o for o in outcomes if _is_certified(o, session)]
    base = next((o for o in certified if o.origin == "base"), None)
    within = [o for o in without_base(certified) if preflight.limits.allows(o.cost)]
    if not within:
        raise SearchFailedError(
            f"no architecture could be certified: {'; '.join(session.notes[:1])}"
        )
    first_runs = [o for o in within if o.key == o.network]  # a lucky seed is no better network
    rungs = [preflight.limits.scaled(rung) for rung in config.rungs]
    return Results(
        base=preflight.base,
        base_network=base,
        budget=str(preflight.budget),
        num_test=session.data.count("test"),
        everything=tuple(within),
        front=tuple(front(first_runs, preflight.score)),
        contests=contests(
            within, [(_rung_label(rung, preflight), rung) for rung in rungs], preflight.score
        ),
        failures=dict(session.failures),
        notes=tuple(session.notes),
        limits=preflight.limits,
        base_widths=_base_widths(preflight),
        score=preflight.score,
        samples=TestSamples(session.context.directory),
        breakdown=compute_breakdown(EventFile(session.context.directory / EVENTS_FILE).read()),
    )


def publish(session: Session, results: Results) -> None:
    """Write results, plots and report into the folder of the search, and hand them to MLflow."""
    folder = session.context.directory
    write_durably(folder / RESULTS_FILE, json.dumps(results.to_mapping(), indent=2).encode())
    front_figure(results).savefig(folder / PLOT_FILE, dpi=150)
    pictures = draw_all(folder, results, _base_widths(session.context.preflight))
    write_durably(folder / REPORT_FILE, report_page(folder).encode())
    files: list[Path] = [folder / name for name in (PLOT_FILE, RESULTS_FILE, REPORT_FILE)]
    session.record.mark_front(results)
    sentences = [f"**{entry.text}**" for entry in results.recommendations]
    session.runs.conclude(
        [*files, *pictures],
        beginning=[*sentences, recommendation.note(results.num_test, results.score)],
        verdict=results.comparisons,
    )


def _base_widths(preflight: Preflight) -> dict[str, int]:
    return {name: preflight.graph.group(name).width for name in preflight.groups}


def _rung_label(rung: Budget, preflight: Preflight) -> str:
    parts = [
        f"{b.quantity} ≤ {format_count(b.value)} "
        f"({100 * b.value / preflight.base.of(b.quantity):.3g} % of base)"
        for b in rung.bounds
    ]
    return ", ".join(parts)


def _is_certified(outcome: Outcome, session: Session) -> bool:
    """Whether the stored folder rebuilds to the stated cost, by fvcore's count."""
    if outcome.path in session.certified:
        return True
    try:
        certify([outcome], session.context)
    except ArchitectureError as error:
        session.notes.append(f"{outcome.key} is left out: {error}")
        return False
    return True
