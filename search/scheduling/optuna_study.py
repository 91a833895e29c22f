"""The Optuna study of a search: it proposes trials and is the truth about what became of them."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from pruning.cost import Budget
from pruning.errors import SearchStateError, UnreachableBudgetError, first_line
from search.scheduling.journal_repair import mend
from search.tasks.score import Score
from search.trials.jobs import Ending, Job, Outcome

JOURNAL = "study.journal"
"""In the folder of a search, unless its study lies in a database."""

_FORMAT, _OUTCOMES, _STATE, _REASON = "espalier.format", "outcomes", "state", "reason"
_FINAL, _AGAIN = "final", "again"
"""Of a failure, whether it would come again; of a trial, the number of the one that it repeats."""

_ENQUEUED = "fixed_params"  # where Optuna keeps what a trial was enqueued with
_FORMAT_NOW = 4
_TOLD = {
    "failed": TrialState.FAIL,
    "stopped early": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
}

_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def study_storage(
    directory: Path, url: str = "", tell: Callable[[str], object] = lambda _: None
) -> BaseStorage:
    """The storage of a search's study: a journal in its folder, or the database at `url`.

    What a process left unfinished when it was killed is cut off, and so is its lock: whoever
    asks holds the search. tell: is given a line if more of the journal was damaged.
    SearchStateError if the journal or the database cannot be used.
    """
    if url:
        return _database(url)
    file = directory / JOURNAL
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if note := mend(file):
        tell(note)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return JournalStorage(JournalFileBackend(str(file)))
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise SearchStateError(
            f"the study in {file} is damaged: {first_line(error)}; remove the file to have the "
            "trials made again"
        ) from error


def _database(url: str) -> BaseStorage:
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # what a driver raises is its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SearchStateError(f"the study's database cannot be used: {first}") from error


def trial_number(trial: BaseTrial) -> int:
    """The number that the search knows a trial by: that of the failed one if it repeats one."""
    return int(trial.user_attrs.get(_AGAIN, trial.number))


class StudyRecord:
    """What became of the trials of a study; of one that was tried again, the last time.

    trials: all of them, in their order.
    """

    def __init__(self, trials: Iterable[FrozenTrial]) -> None:
        self._params: dict[int, dict[str, Any]] = {}
        self._outcomes: dict[int, list[Outcome]] = {}
        self._endings: dict[int, Ending] = {}
        for trial in trials:
            self._take(trial)

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the finished trials, in order, each followed by its by-products."""
        return [o for number in sorted(self._outcomes) for o in self._outcomes[number]]

    @property
    def has_outcomes(self) -> bool:
        """Whether any trial came to a network."""
        return any(self._outcomes.values())

    @property
    def endings(self) -> dict[int, Ending]:
        """Of the trials that came to nothing, by number."""
        return {number: self._endings[number] for number in sorted(self._endings)}

    def params(self, number: int) -> dict[str, Any]:
        """What trial `number` drew; SearchStateError if there is no such trial."""
        if number not in self._params:
            raise SearchStateError(
                f"the search has no trial {number}: it has 0 to {len(self._params) - 1}"
            )
        return dict(self._params[number])

    def _take(self, trial: FrozenTrial) -> None:
        """Let what is known of a trial count, in place of what was before."""
        number = trial_number(trial)
        self._outcomes.pop(number, None)
        self._endings.pop(number, None)
        if trial.number == number or number not in self._params:
            self._params[number] = trial.params
        if trial.state is TrialState.COMPLETE:
            self._outcomes[number] = list(map(Outcome.from_mapping, trial.user_attrs[_OUTCOMES]))
        elif trial.state.is_finished():
            self._endings[number] = Ending(
                trial.user_attrs[_STATE],
                trial.user_attrs[_REASON],
                is_final=bool(trial.user_attrs.get(_FINAL)),
            )


class StudySource(StudyRecord):
    """Proposes jobs until `num_trials` are settled, over restarts.

    A trial that an earlier process was at work on is handed out again, under its number and
    with its proposal; so is one that failed then, unless it would fail again. What is proposed
    depends on the seed, the trial's number and what is known of others then, not on restarts. A
    proposal that nothing can be made of (`propose` raises UnreachableBudgetError) is told as
    infeasible, and the next one made.

    study: see `open_study`.
    propose: draws a point with a trial of Optuna and makes a job of it; see `trial_number`.
    new_sampler: a sampler for the seed it is given.
    openings: parts of the points of the first trials.
    known: the result that a job would come to again, if there is one: it counts, and is not made.
    """

    def __init__(
        self,
        study: optuna.Study,
        propose: Callable[[BaseTrial], Job],
        new_sampler: Callable[[int], BaseSampler],
        limits: Budget,
        num_trials: int,
        *,
        seed: int,
        openings: Sequence[Mapping[str, Any]] = (),
        known: Callable[[Job], Outcome | None] = lambda _: None,
    ) -> None:
        trials = study.get_trials(deepcopy=False)
        super().__init__(trials)
        self._study, self._propose, self._new_sampler = study, propose, new_sampler
        self._limits, self._num_trials, self._seed = limits, num_trials, seed
        self._known = known
        self._running: dict[str, Trial] = {}
        self._begun = {trial_number(trial) for trial in trials if trial.state in _BEGUN}
        num_enqueued = sum(
            _ENQUEUED in trial.system_attrs and _AGAIN not in trial.user_attrs for trial in trials
        )
        for params in openings[num_enqueued:num_trials]:  # maybe all but a few of them
            study.enqueue_trial(dict(params))
        for number, ending in self.endings.items():
            if ending.state == "failed" and not ending.is_final:
                study.enqueue_trial(self.params(number), user_attrs={_AGAIN: number})
                del self._endings[number]
        running = study.get_trials(states=(TrialState.RUNNING,))
        # Optuna has no public way from what it stored of a trial to one that goes on.
        self._orphans = [(trial_number(trial), trial._trial_id) for trial in running]

    def __len__(self) -> int:
        """Trials that are neither settled nor handed out."""
        num_settled = len(self._outcomes) + len(self._endings)
        return max(0, self._num_trials - num_settled - len(self._running))

    @property
    def is_over(self) -> bool:
        return len(self) == 0

    def settled(self) -> Iterator[tuple[Job, Ending | None]]:
        """The jobs that are over, in order, and why there is nothing of them.

        Those whose result was known are left out.
        """
        trials = self._study.get_trials(deepcopy=False)
        last = {trial_number(trial): trial for trial in trials}
        for number, trial in last.items():
            if not trial.state.is_finished() or trial.user_attrs.get(_OUTCOMES) == []:
                continue
            try:
                job = self._propose(trial)
            except UnreachableBudgetError:
                continue  # there never was one
            yield job, self._endings.get(number)

    def next(self) -> Job | None:
        while len(self) > 0:
            trial = self._next_trial()
            try:
                job = self._propose(trial)
            except UnreachableBudgetError as error:
                trial.set_constraint("flops", 1.0)
                self._end(trial, Ending("infeasible", str(error)))
                continue
            result = self._known(job)
            if result is not None:
                self._tell(trial, result, [])
                continue
            self._params.setdefault(trial_number(trial), trial.params)
            self._running[job.key] = trial
            return job
        return None

    def _next_trial(self) -> Trial:
        if self._orphans:
            number, trial_id = self._orphans.pop(0)
            self._reseed(number)
            return Trial(self._study, trial_id)
        self._reseed(len(self._begun))
        trial = self._study.ask()
        self._begun.add(trial_number(trial))
        return trial

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        trial = self._running.pop(job.key)
        own = outcomes[0]
        if not math.isfinite(own.validation_score):
            (name, *_) = self._study.metric_names or ("validation score",)
            reason = f"{name} is {own.validation_score}"
            self._end(trial, Ending("failed", reason, is_final=True))
            return
        excess = self._limits.excess(own.cost)
        for quantity, value in excess.items():
            trial.set_constraint(quantity, value)  # feasible at most at 0; before tell, only
        if not self._limits.allows(own.cost):
            over = ", ".join(name for name, value in excess.items() if value > 0)
            self._end(trial, Ending("infeasible", f"over budget in {over}"))
            return
        self._tell(trial, own, outcomes)

    def _tell(self, trial: Trial, result: Outcome, outcomes: Sequence[Outcome]) -> None:
        trial.set_user_attr(_OUTCOMES, [outcome.to_mapping() for outcome in outcomes])
        self._take(self._study.tell(trial, [result.validation_score, float(result.flops)]))

    def ended(self, job: Job, ending: Ending) -> None:
        trial = self._running.pop(job.key)
        if ending.state == "infeasible":
            trial.set_constraint("flops", 1.0)  # by how much is not known
        self._end(trial, ending)

    def _end(self, trial: Trial, ending: Ending) -> None:
        trial.set_user_attr(_STATE, ending.state)
        trial.set_user_attr(_REASON, ending.reason)
        if ending.is_final:
            trial.set_user_attr(_FINAL, True)
        self._take(self._study.tell(trial, state=_TOLD[ending.state]))

    def _reseed(self, number: int) -> None:
        """A sampler of its own for every trial, so that a restart changes no proposal."""
        (seed,) = np.random.SeedSequence((self._seed, number)).generate_state(1)
        self._study.sampler = self._new_sampler(int(seed))


def recorded_study(directory: Path, name: str, url: str = "") -> StudyRecord:
    """What became of the trials of a search, as it stands; nothing is written where it is kept.

    url: as in `study_storage`. SearchStateError if there is no such study.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        if not url and (directory / JOURNAL).exists():
            shutil.copy(directory / JOURNAL, folder)
        try:
            study = optuna.load_study(study_name=name, storage=study_storage(Path(folder), url))
        except KeyError:
            raise SearchStateError(f"{url or directory} holds no study {name!r}") from None
        _check_format(study)
        return StudyRecord(study.get_trials())


def open_study(storage: BaseStorage, name: str, score: Score) -> optuna.Study:
    """The study of this name, created if need be; its objectives are the score and FLOPs.

    SearchStateError if another version made it, or if it is of another score.
    """
    names, directions = [f"validation {score.name}", "FLOPs"], [score.direction, "minimize"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # multivariate TPE, the constant liar and metric names are marked as experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=directions,
            load_if_exists=True,
        )
        if study.user_attrs.get(_FORMAT) is None:
            study.set_metric_names(names)
            study.set_user_attr(_FORMAT, _FORMAT_NOW)
    _check_format(study)
    _check_objectives(study, names, directions)
    return study


def _check_format(study: optuna.Study) -> None:
    version = study.user_attrs.get(_FORMAT)
    if version != _FORMAT_NOW:
        raise SearchStateError(
            f"the study {study.study_name!r} is of format {version}, this Espalier reads "
            f"{_FORMAT_NOW}: continue it with the version that began it"
        )


def _check_objectives(study: optuna.Study, names: Sequence[str], directions: Sequence[str]) -> None:
    known = [direction.name.lower() for direction in study.directions]
    if (study.metric_names, known) != (list(names), list(directions)):
        raise SearchStateError(
            f"the study {study.study_name!r} is to {_goals(study.metric_names or [], known)}, the "
            f"task is to {_goals(names, directions)}: give the search another name"
        )


def _goals(names: Sequence[str], directions: Sequence[str]) -> str:
    return " and ".join(f"{way} {name}" for way, name in zip(directions, names, strict=False))
