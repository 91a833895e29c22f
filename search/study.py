"""The Optuna study of a search: it proposes trials and is the truth about what became of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from pruning.cost import Budget
from search.space import SearchSpace, sampler
from search.tasks import Outcome, Task, TrialTask

OBJECTIVES = ("validation accuracy", "FLOPs")
_OUTCOME, _FAILURE = "outcome", "failure"
_INTERRUPTED = "interrupted; proposed again"
_FIXED = "fixed_params"  # where Optuna keeps what a trial was enqueued with


class StudySource:
    """Proposes trials until `num_trials` have finished or failed, over restarts.

    file: the study's journal; created if missing, continued if there.
    first_targets: FLOPs of the first trials, so that each rung of the ladder is met once; each
        method and granularity comes up once among the first trials, too.
    lost: trials that an earlier process did not finish; they are proposed again.
    """

    def __init__(
        self,
        file: Path,
        space: SearchSpace,
        limits: Budget,
        num_trials: int,
        *,
        seed: int,
        first_targets: Sequence[float] = (),
    ) -> None:
        self._space, self._limits, self._num_trials = space, limits, num_trials
        self._running: dict[int, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # multivariate TPE, the constant liar and metric names are marked as experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                study_name=file.parent.name,
                storage=JournalStorage(JournalFileBackend(str(file))),
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
            self._study.set_metric_names(list(OBJECTIVES))
            # After a restart the same seed would propose the first trials all over again.
            self._study.sampler = sampler(
                (seed + len(self._study.trials)) % 2**32,
                num_trials,
                is_conditional=space.is_conditional,
            )
        if not self._study.trials:
            for params in space.openings(first_targets)[:num_trials]:
                self._study.enqueue_trial(params)
        self.lost = self._retry_orphans()

    def __len__(self) -> int:
        return max(0, self._num_trials - len(self._settled()) - len(self._running))

    @property
    def outcomes(self) -> list[Outcome]:
        """The finished trials, in order."""
        return [
            Outcome.from_mapping(trial.user_attrs[_OUTCOME])
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state is TrialState.COMPLETE
        ]

    @property
    def failures(self) -> dict[int, str]:
        """The reason per failed trial."""
        return {
            trial.number: str(trial.user_attrs[_FAILURE])
            for trial in self._settled()
            if trial.state is TrialState.FAIL
        }

    def next(self) -> Task | None:
        if len(self) == 0:
            return None
        trial = self._study.ask()
        self._running[trial.number] = trial
        return TrialTask(trial.number, self._space.propose(trial))

    def finished(self, task: Task, outcome: Outcome) -> None:
        trial = self._running.pop(_number(task))
        if not math.isfinite(outcome.validation_accuracy):
            self._fail(trial, f"validation accuracy is {outcome.validation_accuracy}")
            return
        for quantity, excess in self._limits.excess(outcome.cost).items():
            trial.set_constraint(quantity, excess)  # feasible at most at 0; before tell, only
        trial.set_user_attr(_OUTCOME, outcome.to_mapping())
        self._study.tell(trial, [outcome.validation_accuracy, float(outcome.flops)])

    def failed(self, task: Task, reason: str) -> None:
        self._fail(self._running.pop(_number(task)), reason)

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(_FAILURE, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _settled(self) -> list[FrozenTrial]:
        """Trials that count: finished, or failed for a reason of their own."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished() and trial.user_attrs.get(_FAILURE) != _INTERRUPTED
        ]

    def _retry_orphans(self) -> list[TrialTask]:
        """Trials that an earlier process left running are told as failed and proposed again."""
        lost = []
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            # One stopped before it drew its parameters keeps those it was to have.
            self._study.enqueue_trial(trial.system_attrs.get(_FIXED, {}) | trial.params)
            storage = self._study._storage
            storage.set_trial_user_attr(trial._trial_id, _FAILURE, _INTERRUPTED)
            self._study.tell(trial.number, state=TrialState.FAIL)
            if (proposal := self._space.proposal(trial.params)) is not None:
                lost.append(TrialTask(trial.number, proposal))
        return lost


def _number(task: Task) -> int:
    assert isinstance(task, TrialTask), task
    return task.number
