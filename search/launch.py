"""Ray Tune schedules tasks: the only file that imports Ray.

One adapter hands out tasks, one trainable performs them, one callback passes on what they
report; both stages of a search use them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read while Ray is imported. The trials work in the caller's directory, so that relative
# paths and modules of the user's own mean what they meant on the command line.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from pruning.errors import EspalierError
from search.datasets import ImageData
from search.space import Proposal
from search.tasks import EpochRecord, MemberTask, Observer, Outcome, Task, TaskSource, TrialTask
from search.trial import Workshop, perform

_TASK, _EPOCH, _OUTCOME, _FAILURE = "task", "epoch", "outcome", "failure"
_LOST_WORKER_RETRIES = 1


@contextmanager
def cluster(num_workers: int) -> Iterator[None]:
    """A local Ray with room for `num_workers` tasks, shut down at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=num_workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def run_tasks(
    source: TaskSource,
    workshop: Workshop,
    data: ImageData,
    observer: Observer,
    *,
    num_workers: int,
) -> None:
    """Perform every task of `source` inside `cluster`, `num_workers` at a time.

    A task that raises is reported as failed with its reason, and the others go on.
    """
    if len(source) == 0:
        return
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    resources = {"cpu": 1.0, "gpu": 1 / num_workers if workshop.device == "cuda" else 0.0}
    trainable = tune.with_resources(
        tune.with_parameters(_perform, workshop=workshop, data=data, threads=threads), resources
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_TaskSearcher(source, observer),
            num_samples=len(source),
            max_concurrent_trials=num_workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(Path(workshop.config.directory).resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKER_RETRIES),
            callbacks=[_Reporter(observer)],
        ),
    )
    with _quiet():
        tuner.fit()


def _perform(config: dict[str, Any], *, workshop: Workshop, data: ImageData, threads: int) -> None:
    """Runs in a worker: one task, from its description to its outcome."""
    torch.set_num_threads(threads)

    def report(record: EpochRecord) -> None:
        tune.report({_EPOCH: json.dumps(dataclasses.asdict(record))})  # Tune flattens mappings

    try:
        outcome = perform(_task(config[_TASK]), workshop, data, report)
    except Exception as error:
        known = isinstance(error, EspalierError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        tune.report({_FAILURE: " ".join(reason.split())})
    else:
        tune.report({_OUTCOME: json.dumps(outcome.to_mapping())})


class _TaskSearcher(Searcher):
    """Hands Ray the tasks of a source and tells the source what came of them."""

    def __init__(self, source: TaskSource, observer: Observer) -> None:
        super().__init__(metric="unused", mode="max")
        self._source, self._observer = source, observer
        self._tasks: dict[str, Task] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        task = self._source.next()
        if task is None:
            return str(Searcher.FINISHED)
        self._tasks[trial_id] = task
        self._observer.started(task)
        return {_TASK: _describe(task)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        task = self._tasks.pop(trial_id)
        if result is not None and _OUTCOME in result and not error:
            outcome = Outcome.from_mapping(json.loads(result[_OUTCOME]))
            self._source.finished(task, outcome)
            self._observer.finished(task, outcome)
            return
        reason = (result or {}).get(_FAILURE, "its worker process died")
        self._source.failed(task, reason)
        self._observer.failed(task, reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth about trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its set-up to restore it; Espalier goes on from the study


class _Reporter(tune.Callback):
    """Passes epochs on to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def on_trial_result(  # Ray calls it by keyword
        self, *, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        if result.get(_EPOCH):
            self._observer.epoch(
                _task(trial.config[_TASK]), EpochRecord(**json.loads(result[_EPOCH]))
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


def _describe(task: Task) -> dict[str, Any]:
    return dataclasses.asdict(task)


def _task(description: dict[str, Any]) -> Task:
    if "proposal" in description:
        return TrialTask(description["number"], Proposal(**description["proposal"]))
    return MemberTask(**description)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Tune's own progress and warnings off the terminal."""
    logger = logging.getLogger("ray.tune")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
