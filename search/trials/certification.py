"""Whether what a job has stored is what it says, by loading it as a stranger would."""

from __future__ import annotations

from collections.abc import Iterable

from copycat.architecture import read, verify
from search.trials.job_context import JobContext
from search.trials.jobs import Outcome


def certify(outcomes: Iterable[Outcome], context: JobContext) -> None:
    """Rebuild stored networks: each has to have its stated cost and to answer as it did.

    Raises ArchitectureError at the first that does not.
    """
    for outcome in outcomes:
        folder = context.directory / outcome.path
        builder, preflight = read(folder).builder, context.preflight
        assert builder is not None, folder
        graph = preflight.graph if builder == preflight.builder else None
        verify(folder, trust=builder.modules, graph=graph)
