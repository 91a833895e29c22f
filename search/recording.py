"""Writes what happens to MLflow: an observer of the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_server import schema
from mlflow_server.runs import EndStatus, RunRecorder
from pruning.cost import Cost
from search.config import SearchConfig
from search.preflight import Preflight
from search.space import Proposal
from search.tasks import EpochRecord, MemberTask, Outcome, Task, TrialTask

SEARCH = "search"
"""Key of the parent run."""

_STOPPED = "stopped before its end"


class Recording:
    """One run for the search, one below it for every trial and every architecture."""

    def __init__(self, recorder: RunRecorder, config: SearchConfig, preflight: Preflight) -> None:
        self._recorder, self._base = recorder, preflight.base
        self._budget = {schema.TAG_BUDGET: str(preflight.budget)}
        self._epochs: dict[str, list[EpochRecord]] = {}
        self._open = [SEARCH]
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
                **{name: value for name, value in training.items() if value != ""},
            },
            tags=self._budget,
            description=(
                f"Search for smaller networks than {config.model} on {config.data.source} "
                f"within {preflight.budget}. Its runs: every trial (one method, its settings and "
                "target), and every architecture that came of it."
            ),
        )
        recorder.log_metrics(
            SEARCH,
            {
                schema.METRIC_BASE_FLOPS: preflight.base.flops,
                schema.METRIC_BASE_NUM_PARAMS: preflight.base.params,
            },
        )

    def started(self, task: Task) -> None:
        self._epochs[_run_key(task)] = []
        if isinstance(task, TrialTask):
            self._open.append(_run_key(task))
            self._recorder.open_run(
                _run_key(task),
                kind="trial",
                name=f"trial {task.number}",
                parent=SEARCH,
                tags=self._budget,
                params=_params(task.proposal),
                description=(
                    "Training with the method's penalty, pruning to the target, fine-tuning. "
                    "Steps of the curves are epochs."
                ),
            )
        else:
            self._open_architecture(task.key, task.origin, task.alpha)

    def epoch(self, task: Task, record: EpochRecord) -> None:
        self._epochs[_run_key(task)].append(record)
        self._log_epoch(_run_key(task), record)

    def _log_epoch(self, key: str, record: EpochRecord) -> None:
        metrics = {
            schema.METRIC_TRAIN_LOSS: record.train_loss,
            schema.METRIC_EPOCH_VALIDATION_ACCURACY: record.validation_accuracy,
            schema.METRIC_LEARNING_RATE_NOW: record.learning_rate,
        }
        if record.sparsity is not None:
            metrics[schema.METRIC_SPARSITY] = record.sparsity
        self._recorder.log_metrics(key, metrics, step=record.step)

    def finished(self, task: Task, outcome: Outcome) -> None:
        epochs = self._epochs.pop(_run_key(task))
        if isinstance(task, TrialTask):
            metrics = {**_measurements(outcome, self._base), **_details(outcome)}
            self._recorder.log_metrics(_run_key(task), metrics)
            self._recorder.set_tags(_run_key(task), _tags(outcome))
            self._end(_run_key(task), "finished")
            self._open_architecture(outcome.key, outcome.origin, outcome.alpha)
            for record in epochs:  # the same curve, beside the network that came of it
                self._log_epoch(_architecture_key(outcome.key), record)
        key = _architecture_key(outcome.key)
        self._recorder.log_metrics(key, _measurements(outcome, self._base))
        self._recorder.set_tags(key, _tags(outcome))
        self._end(key, "finished")

    def failed(self, task: Task, reason: str) -> None:
        del self._epochs[_run_key(task)]
        self._end(_run_key(task), "failed", reason)

    def lost(self, task: Task) -> None:
        """Close the run of a task that an earlier process did not finish."""
        self.started(task)
        del self._epochs[_run_key(task)]
        self._end(_run_key(task), "killed", _STOPPED)

    def conclude(
        self, front: Mapping[str, Outcome], everything: list[Outcome], files: list[Path]
    ) -> None:
        """Mark the front, attach plots and tables, close the parent run."""
        for outcome in everything:
            on_front = "true" if outcome.key in front else "false"
            key = _architecture_key(outcome.key)
            self._open_architecture(outcome.key, outcome.origin, outcome.alpha)
            self._recorder.set_tags(key, {schema.TAG_ON_FRONT: on_front})
            self._end(key, "finished")
        self._recorder.log_metrics(SEARCH, {schema.METRIC_FRONT_SIZE: len(front)})
        for file in files:
            self._recorder.log_file(SEARCH, file)
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
        self._open.append(_architecture_key(key))
        self._recorder.open_run(
            _architecture_key(key),
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
    "uniform": "The base network narrowed by one factor to a budget, from scratch.",
}


def _run_key(task: Task) -> str:
    if isinstance(task, MemberTask):
        return _architecture_key(task.key)
    return f"trial/{task.number}"


def _architecture_key(key: str) -> str:
    return f"architecture/{key}"


def _measurements(outcome: Outcome, base: Cost) -> dict[str, float]:
    return {
        schema.METRIC_VALIDATION_ACCURACY: outcome.validation_accuracy,
        schema.METRIC_TEST_ACCURACY: outcome.test_accuracy,
        schema.METRIC_FLOPS: outcome.flops,
        schema.METRIC_FLOPS_SHARE: outcome.flops / base.flops,
        schema.METRIC_NUM_PARAMS: outcome.params,
    }


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
        schema.TAG_ORIGIN: outcome.origin,
        schema.TAG_ARCHITECTURE: outcome.key,
        schema.TAG_PROFILE: outcome.profile,
    }
