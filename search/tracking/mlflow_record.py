"""Writes what happens to MLflow: an observer of the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow_server import schema
from mlflow_server.runs import EndStatus, RunRecorder
from pruning.cost import Cost
from search.results.front import hypervolume
from search.results.report import Results
from search.trials.artifacts import stored_curve
from search.trials.job_context import JobContext
from search.trials.jobs import Ending, EpochRecord, FromScratchJob, Job, Outcome, TrialJob
from search.trials.search_space import Proposal

SEARCH = "search"
"""Key of the parent run."""

_STOPPED = "stopped before its end"


class Recording:
    """One run for the search, one below it for every trial and every architecture.

    links: Markdown that the description of the search ends in.  begun_ms: when the search began.
    What is told again after a restart is recorded again with the time it had, so that it stays
    one point of its curve.
    """

    def __init__(
        self,
        recorder: RunRecorder,
        context: JobContext,
        *,
        links: str = "",
        begun_ms: int | None = None,
    ) -> None:
        config, preflight = context.config, context.preflight
        self._name = config.name
        self._description = (
            f"Search for smaller networks than {config.model} on {config.data.source} "
            f"within {preflight.budget}. Its runs: every trial (one method, its settings and "
            f"target), and every architecture that came of it.{_lacking(preflight.base)}{links}"
        )
        self._recorder, self._context = recorder, context
        self._base = preflight.base
        self._budget = {schema.TAG_BUDGET: str(preflight.budget)}
        self._open = [SEARCH]
        self._found: dict[str, Outcome] = {}
        training = dataclasses.asdict(config.training)
        recorder.open_run(
            SEARCH,
            kind="search",
            name=config.name,
            params={
                schema.PARAM_CRITERION: ",".join(config.criterion),
                schema.PARAM_GRANULARITY: ",".join(config.granularity),
                schema.PARAM_MODEL: config.model,
                schema.PARAM_DATA: config.data.source,
                schema.PARAM_BUDGET: str(preflight.budget),
                schema.PARAM_SEED: config.seed,
                schema.PARAM_TRIALS: config.trials,
                **{name: value for name, value in training.items() if value not in ("", None)},
            },
            tags=self._budget,
            description=self._description,
        )
        recorder.log_metrics(
            SEARCH,
            base_measurements(preflight.base),
            time_ms=begun_ms,
        )

    def started(self, job: Job) -> None:
        if isinstance(job, TrialJob):
            again = f", again with other seeds ({job.repeat})" if job.repeat else ""
            self._open.append(_run_key(job))
            self._recorder.open_run(
                _run_key(job),
                kind="trial",
                name=_run_key(job).replace("/", " "),
                parent=SEARCH,
                tags=self._budget,
                params=_params(job.proposal),
                description=(
                    f"Training with the method's penalty, pruning to the target, fine-tuning"
                    f"{again}. Steps of the curves are epochs."
                ),
            )
        else:
            self._open_architecture(job.key, job.origin, job.alpha)

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        log_epochs(self._recorder, _run_key(job), records)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        if isinstance(job, TrialJob):
            metrics = {**measurements(outcomes[0], self._base), **_details(outcomes[0])}
            self._recorder.log_metrics(_run_key(job), metrics, time_ms=self._time(outcomes[0]))
            self._recorder.set_tags(_run_key(job), _tags(outcomes[0]))
            self._end(_run_key(job), "finished")
            for outcome in outcomes:
                self._open_architecture(outcome.key, outcome.origin, outcome.alpha)
                curve = stored_curve(self._context.directory / outcome.path)
                log_epochs(self._recorder, architecture_key(outcome.key), curve)
        for outcome in outcomes:
            key = architecture_key(outcome.key)
            metrics = measurements(outcome, self._base)
            self._recorder.log_metrics(key, metrics, time_ms=self._time(outcome))
            self._recorder.set_tags(key, _tags(outcome))
            self._end(key, "finished")
            self._grown(outcome)

    def _time(self, outcome: Outcome) -> int | None:
        """When its last epoch ended."""
        curve = stored_curve(self._context.directory / outcome.path)
        return curve[-1].time_ms if curve else None

    def _grown(self, outcome: Outcome) -> None:
        """The hypervolume of all that was found so far; a step is a network."""
        self._found[outcome.key] = outcome
        volume = hypervolume(list(self._found.values()), self._base.flops)
        metrics = {schema.METRIC_HYPERVOLUME: volume}
        self._recorder.log_metrics(
            SEARCH, metrics, step=len(self._found), time_ms=self._time(outcome)
        )

    def known(self, outcomes: Sequence[Outcome]) -> None:
        """Networks that an earlier process found, and told of."""
        self._found |= {outcome.key: outcome for outcome in outcomes}

    def ended(self, job: Job, ending: Ending) -> None:
        status: EndStatus = "failed" if ending.state == "failed" else "killed"
        self._recorder.set_tags(_run_key(job), {schema.TAG_STATE: ending.state})
        self._end(_run_key(job), status, ending.why)

    def conclude(self, results: Results, files: Sequence[Path]) -> None:
        """Mark the front, attach plots and tables, close the parent run."""
        on_front = {outcome.key for outcome in results.front}
        for outcome in results.everything:
            tags = {schema.TAG_ON_FRONT: "true" if outcome.key in on_front else "false"}
            self._recorder.set_tags(architecture_key(outcome.key), tags)
        last = max((self._time(outcome) or 0 for outcome in results.everything), default=0)
        metrics = {schema.METRIC_FRONT_SIZE: len(on_front)}
        self._recorder.log_metrics(SEARCH, metrics, time_ms=last or None)
        for file in files:
            self._recorder.log_file(SEARCH, file)
        verdict = results.verdict.replace("\n", "\n\n")
        self._recorder.open_run(
            SEARCH,
            kind="search",
            name=self._name,
            tags=self._budget,
            description=f"{self._description}\n\n## Verdict\n\n{verdict}",
        )
        self._end(SEARCH, "finished")

    def found_nothing(self, reason: str) -> None:
        """Close the parent run of a search that failed."""
        self._end(SEARCH, "failed", reason)

    def interrupted(self) -> None:
        """Close the runs of a search that was stopped, maybe halfway through another method."""
        for key in reversed(self._open):
            self._recorder.end_run(key, "killed", _STOPPED)

    def _end(self, key: str, status: EndStatus, reason: str | None = None) -> None:
        self._recorder.end_run(key, status, reason)
        self._open.remove(key)

    def _open_architecture(self, key: str, origin: str, alpha: float) -> None:
        self._open.append(architecture_key(key))
        self._recorder.open_run(
            architecture_key(key),
            kind="architecture",
            name=key,
            parent=SEARCH,
            params={schema.PARAM_ALPHA: alpha},
            tags={schema.TAG_ORIGIN: origin, schema.TAG_ARCHITECTURE: key, **self._budget},
            description=_DESCRIPTIONS[origin],
        )


_DESCRIPTIONS = {
    "fine-tuned": "The network a trial pruned, with the weights it was fine-tuned to.",
    "from-scratch": "The shape a trial found, trained from scratch with fresh weights.",
    "copycat": "The shape a trial found, rescaled by one factor to a budget, from scratch.",
    "tempered": "A shape between one that a trial found and the uniform one, from scratch.",
    "random": "Widths drawn at random, scaled to a budget, trained from scratch.",
    "uniform": "The base network narrowed by one factor to a budget, from scratch.",
}


def _lacking(base: Cost) -> str:
    """Markdown on what the FLOPs of the base network leave out."""
    return "".join(f"\n\nNote: {note}." for note in base.notes)


def _run_key(job: Job) -> str:
    if isinstance(job, FromScratchJob):
        return architecture_key(job.key)
    return f"trial/{job.number}" + (f"-s{job.repeat}" if job.repeat else "")


def architecture_key(key: str) -> str:
    """Key of the run of an architecture."""
    return f"architecture/{key}"


def log_epochs(recorder: RunRecorder, key: str, records: Sequence[EpochRecord]) -> None:
    """Add epochs to the curves of a run, at the time they ended."""
    for record in records:
        metrics = {
            schema.METRIC_TRAIN_LOSS: record.train_loss,
            schema.METRIC_EPOCH_VALIDATION_ACCURACY: record.validation_accuracy,
            schema.METRIC_LEARNING_RATE_NOW: record.learning_rate,
        }
        if record.sparsity is not None:
            metrics[schema.METRIC_SPARSITY] = record.sparsity
        recorder.log_metrics(key, metrics, step=record.step, time_ms=record.time_ms or None)


def base_measurements(base: Cost) -> dict[str, float]:
    """What is recorded of every base network."""
    return {
        schema.METRIC_BASE_FLOPS: base.flops,
        schema.METRIC_BASE_NUM_PARAMS: base.params,
        **({schema.METRIC_BASE_UNCOUNTED: base.uncounted} if base.uncounted else {}),
    }


def measurements(outcome: Outcome, base: Cost) -> dict[str, float]:
    """What is recorded of every trained network."""
    return {
        schema.METRIC_VALIDATION_ACCURACY: outcome.validation_accuracy,
        schema.METRIC_TEST_ACCURACY: outcome.test_accuracy,
        schema.METRIC_FLOPS: outcome.flops,
        schema.METRIC_FLOPS_SHARE: outcome.flops / base.flops,
        schema.METRIC_NUM_PARAMS: outcome.params,
        schema.METRIC_COMPUTE: outcome.compute,
        **({schema.METRIC_UNCOUNTED: outcome.uncounted} if outcome.uncounted else {}),
    }


def shape_tags(outcome: Outcome) -> dict[str, str]:
    """What is recorded of the shape of every trained network."""
    inexact = {schema.TAG_INEXACT: ", ".join(outcome.inexact)} if outcome.inexact else {}
    return {schema.TAG_PROFILE: outcome.profile, **inexact}


def _details(outcome: Outcome) -> dict[str, float]:
    return {
        schema.METRIC_ACCURACY_AFTER_FINE_TUNING: outcome.validation_accuracy,
        **outcome.details,
    }


_SETTINGS = {
    "strength": schema.PARAM_SPARSITY_STRENGTH,
    "shift": schema.PARAM_SHIFT,
    "t": schema.PARAM_POLARIZATION_T,
}
_STRENGTHS = {
    "layer": schema.PARAM_LAYER_STRENGTH,
    "branch": schema.PARAM_BRANCH_STRENGTH,
    "block": schema.PARAM_BLOCK_STRENGTH,
}


def _params(proposal: Proposal) -> dict[str, str | float]:
    """A proposal under the schema's names."""
    own = proposal.settings_of_criterion
    gates = {name: proposal.settings_of(name) for name in _STRENGTHS}
    return {
        schema.PARAM_CRITERION: proposal.criterion,
        schema.PARAM_GRANULARITY: proposal.granularity,
        **{_SETTINGS[name]: value for name, value in own.items()},
        **{_STRENGTHS[name]: found["strength"] for name, found in gates.items() if found},
        schema.PARAM_TARGET_FLOPS: proposal.target_flops,
    }


def _tags(outcome: Outcome) -> dict[str, Any]:
    return {
        **shape_tags(outcome),
        schema.TAG_ORIGIN: outcome.origin,
        schema.TAG_ARCHITECTURE: outcome.key,
    }
