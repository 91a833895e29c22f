"""One process's work on a search: its stages, one after the other, and what came of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack

from optuna.storages import BaseStorage
from rich.console import Console

from copycat.architecture import verify
from mlflow_server.runs import RunRecorder
from pruning.cost import Budget, format_count
from pruning.errors import ArchitectureError, SearchFailedError
from search.data.datasets import ImageData
from search.results.figures import draw_all
from search.results.front import front
from search.results.html_report import REPORT_FILE, report_page
from search.results.report import Results, plot_front
from search.results.verdict import contests
from search.scheduling.compute_budget import ComputeBudget, Rationed, RationedList
from search.scheduling.from_scratch_jobs import compared, members, num_members
from search.scheduling.optuna_study import StudySource, open_study, study_storage, trial_number
from search.scheduling.ray_executor import Perform, Share, cluster
from search.scheduling.width_interpolation import tempered_source
from search.storage.durable import write_durably
from search.storage.layout import ARCHITECTURES_FOLDER, JOBS_FOLDER, RESULTS_FILE, SPENT_FILE
from search.tracking.event_log import EventLog
from search.tracking.mlflow_record import Recording
from search.tracking.terminal_progress import Progress
from search.training.checkpoints import Checkpoints
from search.training.minibatches import images_trained_on, steps_per_epoch
from search.training.trainer import total_push
from search.trials.artifacts import stored_outcome
from search.trials.from_scratch import member_epochs
from search.trials.job_context import CheckpointCleaner, JobContext
from search.trials.jobs import (
    Ending,
    FromScratchJob,
    Job,
    JobSource,
    NullObserver,
    Observers,
    Outcome,
    TrialJob,
)
from search.trials.search_space import SearchSpace, sampler
from search.trials.trial import product_percents

PLOT_FILE = "front.png"

_LEAST_TARGET = 0.25
"""Share of the budget that trials aim down to where the ladder has no rung below the whole."""


class Session:
    """Continues a search from whatever is in its folder, to its end."""

    def __init__(
        self,
        context: JobContext,
        data: ImageData,
        console: Console,
        recorder: RunRecorder,
        event_log: EventLog,
        *,
        share: Share,
        links: str = "",
    ) -> None:
        self._context, self._data, self._share = context, data, share
        self._config, self._preflight = context.config, context.preflight
        self._progress = Progress(console, 0)
        self._event_log = event_log
        self._endings = _Endings()
        resources = self._config.resources
        self._compute_budget = ComputeBudget(
            context.directory / SPENT_FILE,
            self._images_of,
            seconds=resources.budget_seconds,
            images=resources.max_train_images,
            num_workers=share.num_workers,
        )
        self._compute_budget.write()
        begun = self._compute_budget.begun_ms
        self._recording = Recording(recorder, context, links=links, begun_ms=begun)
        self._storage = study_storage(
            context.directory,
            self._config.study.storage,
            lambda note: console.print(note, style="yellow", highlight=False, markup=False),
        )
        self._stack = ExitStack()
        self._perform_all: Perform | None = None

    def run(self) -> Results:
        """Every stage that is left, then the front; what was finished before stays as it is."""
        try:
            results = self._stages()
            self._conclude(results)
        except SearchFailedError as error:
            self._recording.found_nothing(str(error))
            raise
        except BaseException:
            self._recording.interrupted()
            raise
        finally:
            self._compute_budget.write()
        return results

    def _stages(self) -> Results:
        source = trial_source(self._context, self._data, self._storage)
        self._settle_leftovers(source)
        notes: list[str] = []
        self._expect(self._expected_epochs(len(source)))
        with ExitStack() as self._stack:
            self._stack.enter_context(self._progress.showing())
            trials = self._trials(source, notes)
            repeats = self._repeats(trials, source, notes)
            jobs, left_out = members(self._config, self._preflight, trials)
            notes += left_out
            family = self._trained(jobs, notes)
            family += self._tempered(trials, family, notes)
        for number, ending in source.endings.items():
            self._endings.reasons[f"trial {number}"] = ending.why
        return self._results([*trials, *repeats, *family], notes)

    def _trials(self, source: StudySource, notes: list[str]) -> list[Outcome]:
        rationed = Rationed(
            source,
            self._compute_budget,
            self._epochs_per_trial * self._images_per_epoch,
            reserve=self._images_after_trials,
            is_needed=lambda: not source.outcomes,
        )
        self._perform(rationed)
        if rationed.is_cut_short:
            done = len(source.endings) + len({o.trial for o in source.outcomes})
            notes.append(
                f"{done} of {self._config.trials} trials were made: more would not have left "
                "what the families need of the time or images that the search may use"
            )
        if not source.outcomes:
            endings = source.endings.values()
            can_change = any(e.state == "failed" and not e.is_final for e in endings)
            hint = "; the same command tries them again" if can_change else ""
            raise SearchFailedError(
                f"all {len(endings)} trials failed, the first of them because: "
                f"{next(iter(endings)).reason}{hint}"
            )
        return source.outcomes

    def _repeats(
        self, trials: Sequence[Outcome], source: StudySource, notes: list[str]
    ) -> list[Outcome]:
        """The trials that the verdict compares, again with further seeds."""
        numbers = dict.fromkeys(o.trial for o in compared(self._config, self._preflight, trials))
        own = [self._trial_job(source, number) for number in numbers if number is not None]
        jobs = [
            dataclasses.replace(job, repeat=repeat)
            for repeat in range(1, self._config.seeds)
            for job in own
            if job is not None
        ]
        return self._trained(jobs, notes)

    def _trained(self, jobs: Sequence[Job], notes: list[str]) -> list[Outcome]:
        """What comes of these jobs, by this process or an earlier one, in their order."""
        stored = {job.key: self._stored(job) for job in jobs}
        missing = [job for job in jobs if not stored[job.key]]
        self._recording.known([outcome for found in stored.values() for outcome in found])
        if missing:
            config = self._config
            later = config.study.tempered_trials * config.training.scratch_epochs
            self._expect(sum(map(self._epochs_of, missing)) + later)
        rationed = RationedList(missing, self._compute_budget)
        self._perform(rationed)
        if rationed.left_out:
            names = ", ".join(job.key for job in rationed.left_out)
            notes.append(f"not trained, for want of time or images: {names}")
        stored |= {job.key: self._stored(job) for job in missing}
        return [outcome for job in jobs for outcome in stored[job.key]]

    def _tempered(
        self, trials: Sequence[Outcome], family: Sequence[Outcome], notes: list[str]
    ) -> list[Outcome]:
        """Shapes between the found ones and the uniformly narrowed network."""
        if not self._config.study.tempered_trials:
            return []
        study = open_study(self._storage, f"{self._config.name}/tempered")
        source = tempered_source(study, self._config, self._preflight, trials, family)
        found = {outcome.key: outcome for outcome in source.outcomes}
        for job, ending in source.settled():
            self._settle(job, [] if ending else [found[job.key]], ending)
        self._expect(len(source) * self._config.training.scratch_epochs)
        images = self._config.training.scratch_epochs * self._images_per_epoch
        rationed = Rationed(source, self._compute_budget, images)
        self._perform(rationed)
        if rationed.is_cut_short:
            notes.append("fewer tempered shapes were tried, for want of time or images")
        for number, ending in source.endings.items():
            self._endings.reasons[f"tempered-{number}"] = ending.why
        return source.outcomes

    def _expect(self, epochs: int) -> None:
        """Tell everyone who waits how many epochs are still to come."""
        self._progress.expect(epochs)
        self._event_log.expect(epochs)

    def _perform(self, source: JobSource) -> None:
        if len(source) == 0:
            return
        if self._perform_all is None:
            self._perform_all = self._stack.enter_context(
                cluster(self._context, self._data, self._share)
            )
        self._perform_all(
            source,
            Observers(
                [
                    self._compute_budget,
                    self._progress,
                    self._event_log,
                    self._recording,
                    self._endings,
                    CheckpointCleaner(self._context),
                ]
            ),
        )

    def _settle_leftovers(self, source: StudySource) -> None:
        """Tell the record of trials whose end a killed process could not tell it of."""
        outcomes: dict[int, list[Outcome]] = {}
        for outcome in source.outcomes:
            outcomes.setdefault(outcome.trial or 0, []).append(outcome)
        for number in sorted({*outcomes, *source.endings}):
            job = self._trial_job(source, number)
            if job is not None:
                self._settle(job, outcomes.get(number, []), source.endings.get(number))
        for folder in (self._context.directory / JOBS_FOLDER).glob("*"):
            Checkpoints(folder).attempts.forget()

    def _settle(self, job: Job, outcomes: Sequence[Outcome], ending: Ending | None) -> None:
        """Tell the record how a job of an earlier process ended, unless that process did."""
        if not self._context.checkpoints(job.key).exists:
            self._recording.known(outcomes)
            return
        told = Observers([self._event_log, self._recording])
        told.started(job)
        if ending is None:
            told.finished(job, outcomes)
        else:
            told.ended(job, ending)
        self._context.checkpoints(job.key).clear()

    # ---- what there is, and what it will take

    def _trial_job(self, source: StudySource, number: int) -> TrialJob | None:
        proposal = trial_space(self._context, self._data).proposal(source.params(number))
        return None if proposal is None else TrialJob(number, proposal)

    def _stored(self, job: Job) -> list[Outcome]:
        """What an earlier process made of the job and told of; the folder is the record."""
        if self._context.checkpoints(job.key).exists:
            return []
        keys = [job.key] if isinstance(job, FromScratchJob) else self._product_keys(job)
        found = []
        for key in keys:
            try:
                outcome = stored_outcome(self._context, f"{ARCHITECTURES_FOLDER}/{key}")
            except ArchitectureError:
                continue
            if isinstance(job, TrialJob) or outcome.profile == job.profile.digest:
                found.append(outcome)
        return found

    def _product_keys(self, job: TrialJob) -> list[str]:
        return [job.product_key(percent) for percent in product_percents(self._config)]

    @property
    def _num_products(self) -> int:
        return len(product_percents(self._config))

    @property
    def _images_per_epoch(self) -> int:
        return images_trained_on(len(self._data.train), self._config.training.batch_size)

    @property
    def _images_after_trials(self) -> int:
        """Training images to be kept for what comes after the trials, generously."""
        config = self._config
        epochs = num_members(config) * config.training.scratch_epochs
        epochs += config.study.tempered_trials * config.training.scratch_epochs
        repeats = (config.seeds - 1) * (config.profiles + len(config.ladder))
        epochs += min(repeats, (config.seeds - 1) * config.trials) * self._epochs_per_trial
        return epochs * self._images_per_epoch

    @property
    def _epochs_per_trial(self) -> int:
        training = self._config.training
        return training.epochs + self._num_products * training.fine_tune_epochs

    def _expected_epochs(self, num_trials: int) -> int:
        after = self._images_after_trials // self._images_per_epoch
        return num_trials * self._epochs_per_trial + after

    def _epochs_of(self, job: Job) -> int:
        if isinstance(job, FromScratchJob):
            return member_epochs(job, self._context)
        return self._epochs_per_trial

    def _images_of(self, job: Job) -> int:
        return self._epochs_of(job) * self._images_per_epoch

    # ---- the end

    def _results(self, everything: list[Outcome], notes: list[str]) -> Results:
        certified = [o for o in everything if self._is_certified(o, notes)]
        preflight = self._preflight
        within = [o for o in certified if preflight.limits.allows(o.cost)]
        if not within:
            raise SearchFailedError(f"no architecture could be certified: {'; '.join(notes[:1])}")
        first_runs = [o for o in within if o.key == o.network]  # a lucky seed is no better network
        rungs = [preflight.limits.scaled(rung) for rung in self._config.ladder]
        return Results(
            base=preflight.base,
            budget=str(preflight.budget),
            num_test=len(self._data.test),
            everything=tuple(within),
            front=tuple(front(first_runs)),
            contests=contests(within, [(self._rung_label(rung), rung) for rung in rungs]),
            failures=dict(self._endings.reasons),
            notes=tuple(notes),
            limits=preflight.limits,
            base_widths=self._base_widths,
        )

    @property
    def _base_widths(self) -> dict[str, int]:
        graph = self._preflight.graph
        return {name: graph.group(name).width for name in self._preflight.groups}

    def _rung_label(self, rung: Budget) -> str:
        parts = [
            f"{b.quantity} ≤ {format_count(b.value)} "
            f"({100 * b.value / self._preflight.base.of(b.quantity):.3g} % of base)"
            for b in rung.bounds
        ]
        return ", ".join(parts)

    def _is_certified(self, outcome: Outcome, notes: list[str]) -> bool:
        """Whether the stored folder rebuilds to the stated cost, by fvcore's count."""
        try:
            verify(self._context.directory / outcome.path, trust=self._preflight.builder.modules)
        except ArchitectureError as error:
            notes.append(f"{outcome.key} is left out: {error}")
            return False
        return True

    def _conclude(self, results: Results) -> None:
        directory = self._context.directory
        text = json.dumps(results.to_mapping(), indent=2)
        write_durably(directory / RESULTS_FILE, text.encode())
        plot_front(results, directory / PLOT_FILE)
        pictures = draw_all(directory, results, self._base_widths)
        write_durably(directory / REPORT_FILE, report_page(directory).encode())
        files = [directory / name for name in (PLOT_FILE, RESULTS_FILE, REPORT_FILE)]
        files += pictures
        self._recording.conclude(results, files)


def trial_space(context: JobContext, data: ImageData) -> SearchSpace:
    """What the trials of a search may be."""
    config, preflight = context.config, context.preflight
    steps = steps_per_epoch(len(data.train), config.training.batch_size)
    push = total_push(config.training, config.training.epochs, steps)
    high = float(preflight.flops_limit)
    least = min((rung for rung in config.ladder if rung < 1), default=_LEAST_TARGET)
    low = max(float(preflight.floor.flops), high * least)
    return SearchSpace(push, (low, high), config.criterion, config.granularity)


def trial_source(context: JobContext, data: ImageData, storage: BaseStorage) -> StudySource:
    """The study that proposes the trials of a search."""
    config, space = context.config, trial_space(context, data)
    low, high = space.target_flops
    targets = [max(low, high * rung) for rung in sorted(config.ladder, reverse=True)]
    return StudySource(
        open_study(storage, config.name),
        lambda trial: TrialJob(trial_number(trial), space.propose(trial)),
        lambda seed: sampler(
            config.study.sampler, seed, config.trials, is_conditional=space.is_conditional
        ),
        context.preflight.limits,
        config.trials,
        seed=config.seed,
        openings=space.openings(targets),
    )


class _Endings(NullObserver):
    """Keeps why members of families came to nothing; the study does so for trials."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def ended(self, job: Job, ending: Ending) -> None:
        if isinstance(job, FromScratchJob) or job.repeat:
            self.reasons[job.key] = ending.why
