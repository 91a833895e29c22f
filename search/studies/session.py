"""The one session of every kind of study: one process's work, locked, recorded, told and shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from rich.console import Console

from mlflow_server.runs import RunRecorder
from pruning.errors import ArchitectureError, EspalierError
from pruning.lazy_imports import lazy_modules
from search.data.data import Data
from search.scheduling.compute_budget import ComputeBudget, RationedList
from search.scheduling.own_ray import one_ray
from search.scheduling.share import Share
from search.storage.atomic_files import disk_full_as_error
from search.storage.folder_lock import FolderLock
from search.storage.layout import ARCHITECTURES_FOLDER, JOBS_FOLDER, SPENT_FILE, StudyKind
from search.studies.epoch_plan import EpochPlan
from search.studies.setup import SettingsFile, close_recorder, run_recorder
from search.system.exit_status import may_pass
from search.system.machine import usable_cores
from search.tracking.event_log import EventLog
from search.tracking.mlflow_record import MlflowRecord
from search.tracking.mlflow_runs import StudyRun, StudyRuns
from search.tracking.terminal_progress import Progress
from search.training.checkpoints import Checkpoints
from search.trials.artifacts import stored_outcome
from search.trials.job_context import CheckpointCleaner, JobContext
from search.trials.jobs import (
    Ending,
    FromScratchJob,
    Job,
    JobSource,
    Observer,
    Observers,
    Outcome,
)
from search.trials.targets import product_keys

if TYPE_CHECKING:
    from search.scheduling import ray_executor
else:
    (ray_executor,) = lazy_modules("search.scheduling.ray_executor")

Result = TypeVar("Result")


class Study(ABC, Generic[Result]):
    """A kind of study: what is its own in the work that `run_study` does.

    kind: which one it is.  settings: the file that says what was asked for.
    """

    kind: StudyKind
    settings: SettingsFile
    num_trials: int = 0

    def begin_ray(self) -> None:
        """Have a Ray start while `prepare` is at work, where jobs will need one of this machine."""

    @abstractmethod
    def prepare(self, console: Console) -> tuple[JobContext, Data]:
        """What its jobs need, once everything was tried; EspalierError says what is wrong."""

    @abstractmethod
    def study_run(self, context: JobContext) -> StudyRun:
        """Its run in MLflow."""

    @abstractmethod
    def work(self, session: Session) -> Result:
        """Everything that is left of it, to its end; what is finished stays as it is."""


def run_study(study: Study[Result], console: Console) -> Result:
    """Runs a study, or continues one that was stopped, and returns what `Study.work` does.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves what was finished in place; the same call continues.
    """
    if torch.get_num_threads() > (cores := usable_cores()):
        torch.set_num_threads(cores)  # it knows of no limits of control groups
    settings = study.settings
    settings.require_same()
    folder = settings.path.parent
    with FolderLock(folder, settings.kind) as lock, ExitStack() as stack:
        lock.acquire(only_if_there=True)
        stack.enter_context(one_ray())
        study.begin_ray()
        context, data = study.prepare(console)
        config = context.config
        recorder = run_recorder(config.runs, config.study_name, config.mlflow_url)
        stack.enter_context(disk_full_as_error(folder))
        try:
            study.settings.write()
            lock.acquire()
            event_log = EventLog(context, study.kind, study.num_trials)
            stack.enter_context(event_log)
        finally:  # the record is delivered before the event log says how it ended
            stack.push(_closing(recorder, console))
        session = Session(
            study, context, data, console=console, recorder=recorder, event_log=event_log
        )
        with disk_full_as_error(folder):  # so that the event log hears of it
            return session.run(study)


def _closing(recorder: RunRecorder, console: Console) -> Callable[..., None]:
    """What ends the record where a block ends."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        close_recorder(recorder, console, is_interrupted=is_interrupted)

    return close


class Session:
    """One process's work on a study: performs its jobs, or finds them performed.

    notes: what people should know of the result.  failures: why jobs came to nothing, by key.
    certified: paths of the networks that workers of this process have loaded again, see `certify`.
    runs, record: in MLflow.  observer: everyone who hears of the jobs.
    """

    def __init__(
        self,
        study: Study[Result],
        context: JobContext,
        data: Data,
        *,
        console: Console,
        recorder: RunRecorder,
        event_log: EventLog,
    ) -> None:
        self.context, self.data, self.console = context, data, console
        self.plan = EpochPlan(context, data.count("train"))
        self.notes: list[str] = []
        self._share = Share.of(context.config, context.device)
        resources = context.config.resources
        self.compute_budget = ComputeBudget(
            context.directory / SPENT_FILE,
            self.plan.images_of,
            seconds=resources.budget_seconds,
            images=resources.max_train_images,
            num_workers=self._share.num_workers,
        )
        begun_ms = self.compute_budget.begun_ms
        self.runs = StudyRuns(recorder, study.study_run(context), begun_ms=begun_ms)
        self.record = MlflowRecord(self.runs, context.directory)
        self._failures = _Failures()
        self.failures = self._failures.reasons
        self._certified = _Certified()
        self.certified = self._certified.paths
        self._progress = Progress(console, context.preflight.score)
        self._event_log = event_log
        self.observer = Observers(
            [
                *(
                    self.compute_budget,
                    self._progress,
                    event_log,
                    self.record,
                    self._failures,
                    self._certified,
                ),
                CheckpointCleaner(context),  # the last one: the others know what it forgets
            ]
        )
        self._stack = ExitStack()
        self._perform_all: ray_executor.Perform | None = None

    def run(self, study: Study[Result]) -> Result:
        """The work of the study; the record and the budget learn how it ends."""
        self.compute_budget.write()
        self.runs.begin()
        try:
            return study.work(self)
        except EspalierError as error:
            if may_pass(error):
                self.runs.interrupted()
            else:
                self.runs.failed(str(error))
            raise
        except BaseException:
            self.runs.interrupted()
            raise
        finally:
            self.compute_budget.write()

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Progress is shown inside the block, and workers end with it."""
        with ExitStack() as self._stack:
            self._stack.enter_context(self._progress.showing())
            yield

    def expect(self, epochs: int) -> None:
        """Tell everyone who waits how many epochs are still to come."""
        self._progress.expect(epochs)
        self._event_log.expect(epochs)

    def perform(self, source: JobSource) -> None:
        """Perform every job of a source by workers, which start with the first."""
        if source.is_over:
            return
        if self._perform_all is None:
            self._perform_all = self._stack.enter_context(
                ray_executor.cluster(self.context, self.data, self._share)
            )
        self._perform_all(source, self.observer)

    def trained(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What comes of these jobs, by this process or an earlier one, in their order."""
        unfinished = self.unfinished(jobs)
        if unfinished:
            self.expect(sum(map(self.plan.epochs_of, unfinished)))
        rationed = RationedList(unfinished, self.compute_budget)
        self.perform(rationed)
        self.note_left_out(rationed.left_out)
        return self.outcomes(jobs)

    def unfinished(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that no earlier process finished; the record gets to know of the others."""
        stored = {job.key: self.stored(job) for job in jobs}
        self.record.known([outcome for outcomes in stored.values() for outcome in outcomes])
        return [job for job in jobs if not stored[job.key]]

    def outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What has come of these jobs, in their order."""
        return [outcome for job in jobs for outcome in self.stored(job)]

    def note_left_out(self, jobs: Sequence[Job]) -> None:
        """Let people know of the jobs that could not be afforded."""
        if jobs:
            names = ", ".join(job.key for job in jobs)
            self.notes.append(f"not trained, for want of time or images: {names}")

    def stored(self, job: Job) -> list[Outcome]:
        """What an earlier process made of the job and told of; the folder is the record."""
        if self.context.checkpoints(job.key).exists:
            return []
        config = self.context.config
        keys = [job.key] if isinstance(job, FromScratchJob) else product_keys(job, config)
        outcomes = []
        for key in keys:
            try:
                outcome = stored_outcome(self.context, f"{ARCHITECTURES_FOLDER}/{key}")
            except ArchitectureError:
                continue
            if not isinstance(job, FromScratchJob) or outcome.profile == job.profile.digest:
                outcomes.append(outcome)
        return outcomes

    def settle(self, job: Job, outcomes: Sequence[Outcome], ending: Ending | None) -> None:
        """Tell the record how a job of an earlier process ended, unless that process did."""
        if not self.context.checkpoints(job.key).exists:
            self.record.known(outcomes)
            return
        observers = Observers([self._event_log, self.record])
        observers.started(job)
        if ending is None:
            observers.finished(job, outcomes)
        else:
            observers.ended(job, ending)
        self.context.checkpoints(job.key).clear()

    def forget_attempts(self) -> None:
        """Let every job that was under way be tried as often as if it were new."""
        for folder in (self.context.directory / JOBS_FOLDER).glob("*"):
            Checkpoints(folder).attempts.forget()


class _Failures(Observer):
    """Keeps why networks came to nothing; the Optuna study does so for trials."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def ended(self, job: Job, ending: Ending) -> None:
        if isinstance(job, FromScratchJob) or job.repeat:
            self.reasons[job.key] = ending.why


class _Certified(Observer):
    """Keeps which networks need not be loaded once more: workers do it before they tell of them."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        self.paths.update(outcome.path for outcome in outcomes)
