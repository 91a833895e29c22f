"""A family study: train the ladder, every network with several seeds, and draw its curves.

Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 1.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from copycat.architecture import read
from mlflow_server.runs import RunRecorder
from pruning.cost import Budget
from pruning.errors import ArchitectureError, ConfigError, SearchFailedError
from search.config.family_config import FamilyConfig
from search.data.datasets import ImageData
from search.results.family_results import FamilyRun, FamilyStudy
from search.results.figures import family_curves
from search.results.report import open_results
from search.scheduling.ray_executor import Share, check_resources, cluster
from search.storage.durable import FolderLock, write_durably
from search.storage.layout import ARCHITECTURES_FOLDER
from search.studies.dry_run import dry_run_of_family
from search.studies.family_ladder import Rung, Subject, from_scratch_job, from_scratch_jobs
from search.studies.setup import (
    SettingsFile,
    chosen_device,
    close_recorder,
    run_recorder,
)
from search.tracking.mlflow_family_record import FAMILY, FamilyRecording
from search.tracking.terminal_progress import Progress
from search.training.distillation import check_teacher
from search.trials.artifacts import stored_outcome
from search.trials.from_scratch import member_epochs
from search.trials.job_context import CheckpointCleaner, JobContext
from search.trials.jobs import FromScratchJob, JobList, Observers, Outcome
from search.trials.preflight import Preflight

_SETTINGS_FILE = f"{FAMILY}-settings.json"
_IDENTITY = ("source", "model", "exact", "divisor", "data", "training", "seed")
"""Settings that stored networks depend on; a ladder may grow, and more seeds be asked for."""
_OF_THE_MACHINE = ("data.root", "data.download")


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A training run and its place in the figure."""

    kind: str
    place: str
    job: FromScratchJob


def run(
    config: FamilyConfig,
    subject: Subject,
    rungs: Sequence[Rung],
    data: ImageData,
    *,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> FamilyStudy:
    """Trains every member with every seed, or those that an earlier process left, and draws.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves what was finished in place; the same call continues.
    notes: on what the ladder lacks.  console: where progress is shown; none by default.
    """
    console = console or Console(quiet=True)
    device = chosen_device(config.device, config.resources)
    check_resources(config.as_search(), device)
    _check_data(config, subject, data)
    if config.training.distill_from:
        check_teacher(config.training.distill_from, subject.input_shape, subject.classes)
    planned = [
        _Planned(rung.kind, str(rung.member.limits), job)
        for rung in rungs
        for job in from_scratch_jobs([rung], config.seeds)
    ]
    tuned: list[FamilyRun] = []
    for search in config.include:
        found, shapes = _included(config, subject, search)
        tuned += found
        planned += shapes
    if not planned:
        raise ConfigError("there is nothing to train: give --budgets, or --include a search")
    settings = _settings_file(config)
    settings.require_same()
    context = JobContext(config.as_search(), _preflight(subject), device)
    dry_run_of_family(context, data, [plan.job for plan in planned])
    with FolderLock(config.directory, "family study") as lock:
        lock.acquire(only_if_there=True)
        recorder = run_recorder(config.runs, config.name, config.mlflow_url)
        try:
            settings.write()
            lock.acquire()
            return _Session(config, context, data, recorder, console).run(planned, tuned, notes)
        finally:
            close_recorder(recorder, console)


class _Session:
    """One process's work on a study."""

    def __init__(
        self,
        config: FamilyConfig,
        context: JobContext,
        data: ImageData,
        recorder: RunRecorder,
        console: Console,
    ) -> None:
        self._config, self._context, self._data = config, context, data
        self._console = console
        model = config.model or context.preflight.builder.target
        self._recording = FamilyRecording(recorder, config, model, context.preflight.base)

    def run(
        self, planned: Sequence[_Planned], tuned: Sequence[FamilyRun], notes: Sequence[str]
    ) -> FamilyStudy:
        try:
            for fine_tuned in tuned:
                self._recording.tuned(fine_tuned)
            self._train([plan.job for plan in planned if self._stored(plan.job) is None])
            study = self._study(planned, tuned, notes)
            self._recording.conclude(study.files)
        except BaseException:
            self._recording.interrupted()
            raise
        return study

    def _train(self, jobs: list[FromScratchJob]) -> None:
        if not jobs:
            return
        steps = sum(member_epochs(job, self._context) for job in jobs)
        progress = Progress(self._console, steps)
        share = Share.of(self._context.config, self._context.device)
        observer = Observers([progress, self._recording, CheckpointCleaner(self._context)])
        with progress.showing(), cluster(self._context, self._data, share) as perform_all:
            perform_all(JobList(jobs), observer)

    def _stored(self, job: FromScratchJob) -> Outcome | None:
        """What an earlier process made of the job, if it had the same shape."""
        if self._context.checkpoints(job.key).exists:
            return None
        try:
            found = stored_outcome(self._context, f"{ARCHITECTURES_FOLDER}/{job.key}")
        except ArchitectureError:
            return None
        return found if found.profile == job.profile.digest else None

    def _study(
        self, planned: Sequence[_Planned], tuned: Sequence[FamilyRun], notes: Sequence[str]
    ) -> FamilyStudy:
        runs = [*tuned]
        for plan in planned:
            outcome = self._stored(plan.job)
            if outcome is not None:
                runs.append(FamilyRun(plan.kind, plan.place, plan.job.seed or 0, outcome))
        failures = self._recording.failures
        if len(runs) == len(tuned):
            reasons = "; ".join(dict.fromkeys(failures.values()))
            raise SearchFailedError(f"no network could be trained: {reasons}")
        stem = self._config.directory / FAMILY
        files = tuple(stem.with_suffix(f".{suffix}") for suffix in ("json", "png", "svg"))
        study = FamilyStudy(tuple(runs), len(self._data.test), failures, tuple(notes), files)
        write_durably(files[0], json.dumps(study.to_mapping(), indent=2).encode())
        note = (
            f"{self._config.data.source}: mean and deviation over runs, each measured once on "
            f"{study.num_test:,} test images"
        )
        family_curves(study.curves, stem, note=note)
        return study


def _included(
    config: FamilyConfig, subject: Subject, search: str
) -> tuple[list[FamilyRun], list[_Planned]]:
    """The fine-tuned networks of a search, and the training of their shapes from scratch."""
    folder = Path(search) if Path(search).is_dir() else Path(config.runs) / search
    tuned, planned = [], []
    for outcome in open_results(folder).everything:
        if outcome.origin != "fine-tuned":
            continue
        stored = read(folder / outcome.path)
        found = stored.provenance.get("data")
        if stored.builder != subject.base.builder or found != config.data.source:
            raise ConfigError(
                f"{folder} cannot be included: it searched {stored.builder.target} on {found}, "
                f"the study is of {subject.base.builder.target} on {config.data.source}"
            )
        if stored.inexact and subject.base.graph.exact:
            raise ConfigError(
                f"{folder} cannot be included: it narrowed {', '.join(stored.inexact)}, which is "
                "not possible exactly: give --no-exact"
            )
        # a trial may end in networks of several sizes (-t50), each with repetitions (-s1)
        which = outcome.key.removeprefix("fine-tuned-")
        place = f"trial {re.sub(r'-s[0-9]+$', '', which)}"
        seed = int(stored.provenance["seed"])
        tuned.append(FamilyRun("fine-tuned", place, seed, outcome, folder.name))
        name = f"from-scratch-{folder.name}-{which}"
        for number in range(config.seeds):
            job = from_scratch_job(name, "from-scratch", stored.profile, number)
            planned.append(_Planned("from-scratch", place, job))
    return tuned, planned


def _preflight(subject: Subject) -> Preflight:
    """What jobs need to know of the base network; its budget is no bound."""
    base = subject.base.graph.cost()
    budget = Budget.parse("flops=100%")
    return Preflight(
        builder=subject.base.builder,
        graph=subject.base.graph,
        groups=tuple(subject.profile.widths),
        input_shape=subject.input_shape,
        classes=subject.classes,
        budget=budget,
        limits=budget.absolute(base),
        base=base,
        floor=base,
    )


def _check_data(config: FamilyConfig, subject: Subject, data: ImageData) -> None:
    for what, own, found in (
        ("images of", subject.input_shape, data.train.image_shape),
        ("classes", subject.classes, tuple(data.classes)),
    ):
        if tuple(own) != tuple(found):
            raise ConfigError(
                f"{config.source} is for {what} {', '.join(map(str, own))[:60]}, but "
                f"{config.data.source} has {', '.join(map(str, found))[:60]}"
            )


def _settings_file(config: FamilyConfig) -> SettingsFile:
    return SettingsFile(
        config.directory / _SETTINGS_FILE,
        "family study",
        dataclasses.asdict(config),
        dataclasses.asdict(FamilyConfig(config.source)),
        matters=lambda name: name.split(".")[0] in _IDENTITY and name not in _OF_THE_MACHINE,
    )
