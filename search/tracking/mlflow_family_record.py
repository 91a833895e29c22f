"""Writes a family study to MLflow: an observer of its jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mlflow_server import schema
from mlflow_server.runs import EndStatus, RunRecorder
from pruning.cost import Cost
from search.config.family_config import UNUSED_TRAINING, FamilyConfig
from search.results.family_results import FamilyRun
from search.tracking.mlflow_record import base_measurements, log_epochs, measurements, shape_tags
from search.trials.jobs import Ending, EpochRecord, FromScratchJob, Job, Outcome

FAMILY = "family"
"""Key of the parent run, and name of the files in the folder of a study."""

_STOPPED = "stopped before its end"


class FamilyRecording:
    """One run for the study, one below it for every network; equal shapes share a tag.

    failures: why networks failed, by key.
    """

    def __init__(self, recorder: RunRecorder, config: FamilyConfig, model: str, base: Cost) -> None:
        self._recorder, self._base = recorder, base
        self._open: list[str] = []
        self.failures: dict[str, str] = {}
        training = dataclasses.asdict(config.training)
        self._start(
            FAMILY,
            kind="family",
            name=config.name,
            params={
                schema.PARAM_MODEL: model,
                schema.PARAM_DATA: config.data.source,
                schema.PARAM_SEED: config.seed,
                **{
                    name: value
                    for name, value in training.items()
                    if value not in ("", None) and name not in UNUSED_TRAINING
                },
            },
            # No params: a study may be continued with a longer ladder, which params forbid.
            tags={schema.TAG_BUDGET: " ".join(config.budgets)},
            description=(
                f"Test error against parameters of families of {config.source}: "
                f"{', '.join(config.kinds)}. Its runs: every network with {config.seeds} seeds."
            ),
        )
        recorder.log_metrics(FAMILY, base_measurements(base))

    def started(self, job: Job) -> None:
        assert isinstance(job, FromScratchJob)
        self._start(
            _key(job.key),
            kind="architecture",
            name=job.key,
            parent=FAMILY,
            params={schema.PARAM_ALPHA: job.alpha, schema.PARAM_SEED: job.seed or 0},
            tags={
                schema.TAG_ORIGIN: job.origin,
                schema.TAG_ARCHITECTURE: job.key,
                schema.TAG_BUDGET: job.budget,
            },
            description="A network of the ladder, trained from scratch with one seed.",
        )

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        log_epochs(self._recorder, _key(job.key), records)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        for outcome in outcomes:
            self._measured(outcome.key, outcome)

    def ended(self, job: Job, ending: Ending) -> None:
        self.failures[job.key] = ending.reason
        self._end(_key(job.key), "failed", ending.reason)

    def tuned(self, run: FamilyRun) -> None:
        """Record a fine-tuned network of a search, beside those of its shape from scratch."""
        key, outcome = f"{run.search}-{run.outcome.key}", run.outcome
        self._start(
            _key(key),
            kind="architecture",
            name=key,
            parent=FAMILY,
            tags={
                schema.TAG_ORIGIN: outcome.origin,
                schema.TAG_ARCHITECTURE: f"{run.search}/{outcome.key}",
            },
            description=f"A network that {run.search} pruned and fine-tuned.",
        )
        self._measured(key, outcome)

    def conclude(self, files: Sequence[Path]) -> None:
        """Attach the results and close the parent run."""
        for file in files:
            self._recorder.log_file(FAMILY, file)
        self._end(FAMILY, "finished")

    def interrupted(self) -> None:
        """Close the runs of a study that was stopped."""
        for key in reversed(self._open):
            self._recorder.end_run(key, "killed", _STOPPED)

    def _measured(self, key: str, outcome: Outcome) -> None:
        self._recorder.log_metrics(_key(key), measurements(outcome, self._base))
        self._recorder.set_tags(_key(key), shape_tags(outcome))
        self._end(_key(key), "finished")

    def _start(self, key: str, **settings: object) -> None:
        self._open.append(key)
        self._recorder.open_run(key, **settings)  # type: ignore[arg-type]

    def _end(self, key: str, status: EndStatus, reason: str | None = None) -> None:
        self._recorder.end_run(key, status, reason)
        self._open.remove(key)


def _key(name: str) -> str:
    return f"architecture/{name}"
