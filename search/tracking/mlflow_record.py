"""Writes what happens in a study to MLflow: an observer of its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_server import schema
from mlflow_server.runs import EndStatus
from search.results.recommendation import against_base
from search.results.report import Results
from search.tracking.mlflow_runs import StudyRuns
from search.trials.artifacts import stored_curve
from search.trials.jobs import (
    Ending,
    EpochRecord,
    FromScratchJob,
    Job,
    Observer,
    Origin,
    Outcome,
    TrialJob,
)
from search.trials.pareto import Hypervolume, without_base
from search.trials.search_space import Proposal


class MlflowRecord(Observer):
    """A run for every trial and every architecture, below that of the study.

    directory: the folder of the study.
    What is told again after a restart is recorded again with the time it had, so that it stays
    one point of its curve.
    """

    def __init__(self, runs: StudyRuns, directory: Path) -> None:
        self._runs, self._base, self._directory = runs, runs.study.base, directory
        self._score = runs.study.score
        self._volume = Hypervolume(runs.study.reference, self._score)
        self._networks: set[str] = set()
        self._times: dict[str, int | None] = {}  # by the path of an outcome

    def started(self, job: Job) -> None:
        if isinstance(job, FromScratchJob):
            params: dict[str, str | float] = {schema.PARAM_ALPHA: job.alpha}
            if job.seed is not None:
                params[schema.PARAM_SEED] = job.seed
            self._open_architecture(job.key, job.origin, params, job.budget)
            return
        again = f", again with other seeds ({job.repeat})" if job.repeat else ""
        self._runs.open(
            _run_key(job),
            "trial",
            _run_key(job).replace("/", " "),
            params=_params(job.proposal),
            description=(
                f"Training with the method's penalty, pruning to the target, fine-tuning{again}. "
                "Steps of the curves are epochs."
            ),
        )

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        self._log_epochs(_run_key(job), records)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        if isinstance(job, TrialJob):
            key, first, curves = _run_key(job), outcomes[0], list(map(self._curve, outcomes))
            metrics = {**self._metrics(first), **self._details(first)}
            self._runs.log(metrics, key, time_ms=self._time(first))
            self._runs.tag(key, _tags(first))
            self._runs.end(key)
            for outcome, curve in zip(outcomes, curves, strict=True):
                params: dict[str, str | float] = {schema.PARAM_ALPHA: outcome.alpha}
                if outcome.target:
                    params[schema.PARAM_TARGET] = outcome.target
                self._open_architecture(outcome.key, outcome.origin, params)
                self._log_epochs(architecture_key(outcome.key), curve)
        for outcome in outcomes:
            self._measured(architecture_key(outcome.key), outcome)
            self._log_hypervolume(outcome)

    def include(self, name: str, outcome: Outcome, *, source: str) -> None:
        """A network of the search `source`, beside those of the study; called `name` here."""
        key = architecture_key(name)
        self._runs.open(
            key,
            "architecture",
            name,
            tags={schema.TAG_ORIGIN: outcome.origin},
            description=f"A network that {source} pruned and fine-tuned.",
        )
        self._measured(key, outcome, name=f"{source}/{outcome.key}")

    def _measured(self, key: str, outcome: Outcome, *, name: str = "") -> None:
        metrics = self._metrics(outcome)
        self._runs.log(metrics, key, time_ms=self._time(outcome))
        tags = _tags(outcome)
        self._runs.tag(key, {**tags, schema.TAG_ARCHITECTURE: name or outcome.key})
        self._runs.end(key)

    def _time(self, outcome: Outcome) -> int | None:
        """When its last epoch ended; its curve is read for that if it was not before."""
        if outcome.path not in self._times:
            self._curve(outcome)
        return self._times[outcome.path]

    def _curve(self, outcome: Outcome) -> list[EpochRecord]:
        curve = stored_curve(self._directory / outcome.path)
        self._times[outcome.path] = curve[-1].time_ms if curve else None
        return curve

    def _log_hypervolume(self, outcome: Outcome) -> None:
        """Of all smaller networks so far, where the score allows it; a step is a network."""
        if outcome.origin == "base":
            return
        self.known([outcome])
        if self._volume.value is None:
            return
        metrics = {schema.METRIC_HYPERVOLUME: self._volume.value}
        self._runs.log(metrics, step=len(self._networks), time_ms=self._time(outcome))

    def known(self, outcomes: Sequence[Outcome]) -> None:
        """Networks that an earlier process found, and told of."""
        for outcome in without_base(outcomes):
            self._networks.add(outcome.key)
            self._volume.add(outcome)

    def ended(self, job: Job, ending: Ending) -> None:
        status: EndStatus = "failed" if ending.state == "failed" else "killed"
        self._runs.tag(_run_key(job), {schema.TAG_STATE: ending.state})
        self._runs.end(_run_key(job), status, ending.why)

    def mark_front(self, results: Results) -> None:
        """Say of every network whether it is on the front and what it gave up, and how many are."""
        on_front = {outcome.key for outcome in results.front}
        for outcome in results.networks:
            key = architecture_key(outcome.key)
            tags = {schema.TAG_ON_FRONT: "true" if outcome.key in on_front else "false"}
            self._runs.tag(key, tags)
        by_key = {outcome.key: outcome for outcome in results.networks}
        self.log_against_base(by_key, results.base_network)
        last = max((self._time(outcome) or 0 for outcome in results.everything), default=0)
        self._runs.log({schema.METRIC_FRONT_SIZE: len(on_front)}, time_ms=last or None)

    def log_against_base(self, networks: Mapping[str, Outcome], base: Outcome | None) -> None:
        """Say of these networks, by their names, what they gave up, if that is known."""
        for name, outcome in networks.items():
            gain = against_base(outcome.test_score, base, self._score)
            if gain is not None:
                metrics = {self._named(schema.METRIC_SCORE_AGAINST_BASE): gain}
                self._runs.log(metrics, architecture_key(name), time_ms=self._time(outcome))

    def _open_architecture(
        self, key: str, origin: Origin, params: Mapping[str, str | float], budget: str = ""
    ) -> None:
        tags = {schema.TAG_ORIGIN: origin, schema.TAG_ARCHITECTURE: key}
        if budget:
            tags[schema.TAG_BUDGET] = budget
        self._runs.open(
            architecture_key(key),
            "architecture",
            key,
            params=params,
            tags=tags,
            description=_DESCRIPTIONS.get(origin, _OF_THE_LADDER),
        )

    def _log_epochs(self, key: str, records: Sequence[EpochRecord]) -> None:
        """Add epochs to the curves of a run, at the time they ended."""
        for record in records:
            metrics = {
                schema.METRIC_TRAIN_LOSS: record.train_loss,
                self._named(schema.METRIC_EPOCH_VALIDATION_SCORE): record.validation_score,
                schema.METRIC_LEARNING_RATE_NOW: record.learning_rate,
            }
            if record.sparsity is not None:
                metrics[schema.METRIC_SPARSITY] = record.sparsity
            time_ms = record.time_ms or None
            self._runs.log(metrics, key, step=record.step, time_ms=time_ms)

    def _metrics(self, outcome: Outcome) -> dict[str, float]:
        return {
            self._named(schema.METRIC_VALIDATION_SCORE): outcome.validation_score,
            self._named(schema.METRIC_TEST_SCORE): outcome.test_score,
            schema.METRIC_VIEW_ORDER: schema.view_order(
                outcome.origin, self._score.key(outcome.validation_score)
            ),
            schema.METRIC_FLOPS: outcome.flops,
            schema.METRIC_FLOPS_SHARE: outcome.flops / self._base.flops,
            schema.METRIC_NUM_PARAMS: outcome.params,
            schema.METRIC_COMPUTE: outcome.compute,
            **({} if outcome.channels is None else {schema.METRIC_CHANNELS: outcome.channels}),
            **({schema.METRIC_UNCOUNTED: outcome.uncounted} if outcome.uncounted else {}),
        }

    def _details(self, outcome: Outcome) -> dict[str, float]:
        """What is known of the way of a trial's network, beside its curve."""
        details = {_DETAILS.get(name, name): value for name, value in outcome.details.items()}
        if outcome.origin == "fine-tuned":
            details[schema.METRIC_SCORE_AFTER_FINE_TUNING] = outcome.validation_score
        return {self._named(name): value for name, value in details.items()}

    def _named(self, metric: str) -> str:
        return schema.of_score(metric, self._score.slug)


_OF_THE_LADDER = "A network of the ladder, trained from scratch with one seed."
_DESCRIPTIONS: Mapping[Origin, str] = {
    "base": "The network itself, trained without a penalty.",
    "sparse": "The network that a trial trained sparsely, with all its channels.",
    "fine-tuned": "The network a trial pruned, with the weights it was fine-tuned to.",
    "from-scratch": "The shape a trial found, trained from scratch with fresh weights.",
    "copycat": "The shape a trial found, rescaled by one factor to a budget, from scratch.",
    "tempered": "A shape between one that a trial found and the uniform one, from scratch.",
    "random": "Widths drawn at random, scaled to a budget, trained from scratch.",
    "uniform": "The base network narrowed by one factor to a budget, from scratch.",
}


def _run_key(job: Job) -> str:
    if isinstance(job, FromScratchJob):
        return architecture_key(job.key)
    return f"trial/{job.number}" + (f"-s{job.repeat}" if job.repeat else "")


def architecture_key(key: str) -> str:
    """Key of the run of an architecture."""
    return f"architecture/{key}"


_DETAILS = {
    "score_before_pruning": schema.METRIC_SCORE_BEFORE_PRUNING,
    "score_after_pruning": schema.METRIC_SCORE_AFTER_PRUNING,
}
"""Of an outcome, under the schema's names."""

_SETTINGS = {
    "strength": schema.PARAM_SPARSITY_STRENGTH,
    "shift": schema.PARAM_SHIFT,
    "t": schema.PARAM_POLARIZATION_T,
}
_STRENGTHS = {
    "layer": schema.PARAM_LAYER_STRENGTH,
    "full-layer": schema.PARAM_LAYER_STRENGTH,
    "branch": schema.PARAM_BRANCH_STRENGTH,
    "block": schema.PARAM_BLOCK_STRENGTH,
}


def _params(proposal: Proposal) -> dict[str, str | float]:
    """A proposal under the schema's names."""
    own = proposal.settings_of_criterion
    target, schedule = proposal.target_flops, proposal.schedule
    exponent = proposal.cost_exponent
    gates = {name: proposal.settings_of(name) for name in _STRENGTHS}
    return {
        schema.PARAM_CRITERION: proposal.criterion,
        schema.PARAM_GRANULARITY: proposal.granularity,
        **{_SETTINGS[name]: value for name, value in own.items()},
        **{_STRENGTHS[name]: own["strength"] for name, own in gates.items() if own},
        **({} if target is None else {schema.PARAM_TARGET_FLOPS: target}),
        **({} if schedule == "one-shot" else {schema.PARAM_PRUNING_SCHEDULE: schedule}),
        **({schema.PARAM_COST_EXPONENT: exponent} if exponent else {}),
        **{f"iterative_{name}": v for name, v in proposal.settings_of("iterative").items()},
    }


def _tags(outcome: Outcome) -> dict[str, str]:
    inexact = {schema.TAG_INEXACT: ", ".join(outcome.inexact)} if outcome.inexact else {}
    return {
        schema.TAG_PROFILE: outcome.profile,
        schema.TAG_ORIGIN: outcome.origin,
        schema.TAG_ARCHITECTURE: outcome.key,
        **inexact,
    }
