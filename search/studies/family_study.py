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
from copycat.input_shape import input_shape_of, shape_text
from mlflow_server import schema
from pruning.cost import Budget
from pruning.errors import ConfigError, SearchFailedError
from search import models
from search.config.family_config import UNUSED_TRAINING, FamilyConfig
from search.data.data import Data, Sample
from search.results.family_results import FamilyRun, FamilyStudy
from search.results.figures import family_figure, saved
from search.results.html_report import REPORT_FILE, report_page
from search.results.report import open_results
from search.scheduling.own_ray import begin_ray
from search.scheduling.share import check_resources
from search.storage.atomic_files import write_durably
from search.storage.layout import FAMILY_RESULTS, SETTINGS_FILES, StudyKind
from search.studies.dry_run import dry_run_of_family, try_out
from search.studies.family_ladder import (
    Rung,
    Subject,
    architecture_folder,
    from_scratch_job,
    from_scratch_jobs,
    is_in_runs,
    ladder,
    ladder_lines,
    profile_subject,
    stored_subject,
)
from search.studies.session import Session, Study, run_study
from search.studies.setup import SettingsFile, chosen_device, read_data
from search.system.memory_limit import memory_limited
from search.tasks import registry as tasks
from search.tasks.score import Score
from search.tracking.mlflow_runs import StudyRun
from search.training.data_parallel import check_several_gpus
from search.training.distillation import check_teacher
from search.training.trainer import check_recipe
from search.trials.job_context import JobContext
from search.trials.jobs import BASE, FromScratchJob, Outcome
from search.trials.preflight import Preflight

_IDENTITY = ("source", "model", "exact", "divisor", "data", "task", "training", "seed")
"""Settings that stored networks depend on; a ladder may grow, and more seeds be asked for."""
_OF_THE_MACHINE = ("data.root", "data.download", "data.workers")


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
    data: Data,
    *,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> FamilyStudy:
    """Trains the base network, and every member with every seed, or what is left, and draws.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves what was finished in place; the same call continues.
    notes: on what the ladder lacks.  console: where progress is shown; none by default.
    """
    study = _Family(config, subject, rungs, data, notes)
    return run_study(study, console or Console(quiet=True))


def resume(config: FamilyConfig, *, console: Console | None = None) -> FamilyStudy:
    """Continues a study from its settings alone; see `run`."""
    console = console or Console(quiet=True)
    subject, data = opened(config, console)
    rungs, notes = ladder(config, subject)
    return run(config, subject, rungs, data, notes=notes, console=console)


def opened(config: FamilyConfig, console: Console) -> tuple[Subject, Data]:
    """The network whose shape is rescaled, and the data that its family learns from."""
    task = tasks.resolve(config.as_search().task)
    folder = architecture_folder(config.source, config.runs)
    if folder is not None:
        subject = stored_subject(config, folder)
        data = read_data(config.data, task, config.seed, console, channels=subject.channels)
        return subject, data
    channels = models.required_channels(config.model)
    data = read_data(config.data, task, config.seed, console, channels=channels)
    return profile_subject(config, data.sample), data


def preflight_of(
    config: FamilyConfig, subject: Subject, sample: Sample
) -> tuple[Preflight, list[str]]:
    """What its jobs need to know of the base network, and what there is to say of the ladder.

    sample: of the data that it is to learn from.  Raises what is wrong with the study, as far as
    that can be known without the data themselves.
    """
    rungs, notes = ladder(config, subject)
    _, planned = _checked(config, subject, rungs, sample)
    return _preflight(subject, tasks.resolve(config.as_search().task).score), [
        *ladder_lines(rungs),
        f"to train      {len(planned):,} networks, every seed counted, and the base network",
        *(f"note          {note}" for note in notes),
    ]


class _Family(Study[FamilyStudy]):
    """The training of a ladder, and of the shapes of the searches that are included."""

    kind: StudyKind = "family"

    def __init__(
        self,
        config: FamilyConfig,
        subject: Subject,
        rungs: Sequence[Rung],
        data: Data,
        notes: Sequence[str],
    ) -> None:
        self._config, self._subject, self._data, self._notes = config, subject, data, notes
        self.settings, self._rungs = settings_file(config), rungs
        self._planned: list[_Planned] = []
        self._tuned: list[FamilyRun] = []

    def begin_ray(self) -> None:
        config = self._config
        if not (config.directory / FAMILY_RESULTS).exists():
            begin_ray(config.as_search(), chosen_device(config.device, config.resources))

    def prepare(self, console: Console) -> tuple[JobContext, Data]:  # noqa: ARG002
        config, subject, data = self._config, self._subject, self._data
        task = tasks.resolve(config.as_search().task)
        device = chosen_device(config.device, config.resources)
        check_resources(config.as_search(), device)
        self._tuned, self._planned = _checked(config, subject, self._rungs, data.sample)
        check_recipe(config.training, data, task)
        check_several_gpus(config.as_search(), data, task)
        context = JobContext(config.as_search(), _preflight(subject, task.score), device)
        with memory_limited(config.resources.memory_gb):
            try_out(dry_run_of_family, context, data, self._jobs)
        return context, data

    @property
    def _jobs(self) -> list[FromScratchJob]:
        """Everything that is trained, the base network first, as in a search."""
        return [BASE, *(plan.job for plan in self._planned)]

    def study_run(self, context: JobContext) -> StudyRun:
        config = self._config
        # The ladder is no param: a study may be continued with a longer one, which params forbid.
        return StudyRun(
            "family",
            config.study_name,
            params={
                schema.PARAM_MODEL: config.model or context.preflight.builder.target,
                schema.PARAM_DATA: config.data.source,
                schema.PARAM_SEED: config.seed,
                **config.scratch_training.params(without=UNUSED_TRAINING),
            },
            description=(
                f"How good families of {config.source} are, by their parameters: "
                f"{', '.join(config.kind_names)}. "
                f"Its runs: every network with {config.seeds} seeds, and the base network."
            ),
            base=context.preflight.base,
            budget=" ".join(config.budgets),
            score=context.preflight.score,
            reference=context.preflight.reference,
        )

    def work(self, session: Session) -> FamilyStudy:
        session.notes += self._notes
        for run in self._tuned:
            name = f"{run.search}-{run.outcome.key}"
            session.record.include(name, run.outcome, source=run.search)
        session.forget_attempts()
        with session.showing():
            outcomes = session.trained(self._jobs)
        by_key = {outcome.key: outcome for outcome in outcomes}
        trained = [
            FamilyRun(plan.kind, plan.place, plan.job.seed or 0, by_key[plan.job.key])
            for plan in self._planned
            if plan.job.key in by_key
        ]
        if not trained:
            reasons = "; ".join(dict.fromkeys([*session.failures.values(), *session.notes]))
            raise SearchFailedError(f"no network could be trained: {reasons}")
        base = by_key.get(BASE.key)
        networks = {f"{run.search}-{run.outcome.key}": run.outcome for run in self._tuned}
        session.record.log_against_base({**networks, **by_key}, base)
        study = self._published([*self._tuned, *trained], base, session)
        session.runs.conclude(study.files)
        return study

    def _published(
        self, runs: Sequence[FamilyRun], base: Outcome | None, session: Session
    ) -> FamilyStudy:
        results = self._config.directory / FAMILY_RESULTS
        report = self._config.directory / REPORT_FILE
        files = (results, results.with_suffix(".png"), results.with_suffix(".svg"), report)
        study = FamilyStudy(
            tuple(runs),
            self._data.count("test"),
            session.failures,
            tuple(session.notes),
            files,
            session.context.preflight.score,
            base,
        )
        write_durably(results, json.dumps(study.to_mapping(), indent=2).encode())
        note = (
            f"{self._config.data.source}: mean and deviation over runs, each measured once on "
            f"{study.num_test:,} test images"
        )
        axis = f"{study.measure}{study.score.unit}"
        saved(family_figure(study.curves, axis=axis, note=note), results.with_suffix(""))
        write_durably(report, report_page(report.parent).encode())
        return study


def _checked(
    config: FamilyConfig, subject: Subject, rungs: Sequence[Rung], sample: Sample
) -> tuple[list[FamilyRun], list[_Planned]]:
    """What is shown of other searches, and everything that is to be trained but the base network.

    Raises ConfigError where that is nothing, or does not fit the data.
    """
    score = tasks.resolve(config.as_search().task).score
    _check_data(config, subject, sample)
    if config.training.distill_from:
        check_teacher(config.training.distill_from, subject.input_shape, subject.classes)
    planned = [
        _Planned(rung.kind, str(rung.member.limits), job)
        for rung in rungs
        for job in from_scratch_jobs([rung], config.seeds)
    ]
    tuned: list[FamilyRun] = []
    for search in config.include:
        runs, jobs = _included(config, subject, search, score)
        tuned += runs
        planned += jobs
    if not planned:
        raise ConfigError(
            "there is nothing to train: give --budgets, or --include a search", field="budgets"
        )
    return tuned, planned


def _included(
    config: FamilyConfig, subject: Subject, search: str, score: Score
) -> tuple[list[FamilyRun], list[_Planned]]:
    """The fine-tuned networks of a search, and the training of their shapes from scratch."""
    named = Path(config.runs) / search
    folder = named if named.is_dir() or is_in_runs(config.source) else Path(search)
    tuned, planned = [], []
    found = open_results(folder)
    if found.score != score:
        raise ConfigError(
            f"{folder} cannot be included: it measured {found.score.name}, the study measures "
            f"{score.name}"
        )
    for outcome in found.everything:
        if outcome.origin != "fine-tuned":
            continue
        stored = read(folder / outcome.path)
        data = stored.provenance.get("data")
        if stored.builder != subject.base.builder or data != config.data.source:
            searched = "another network" if stored.builder is None else stored.builder.target
            raise ConfigError(
                f"{folder} cannot be included: it searched {searched} on {data}, "
                f"the study is of {subject.base.builder.target} on {config.data.source}"
            )
        if stored.inexact and subject.base.graph.offered.exact:
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


def _preflight(subject: Subject, score: Score) -> Preflight:
    """What jobs need to know of the base network; its budget is no bound."""
    base = subject.base.graph.cost()
    budget = Budget.parse("flops=100%")
    return Preflight(
        builder=subject.base.builder,
        graph=subject.base.graph,
        groups=tuple(subject.profile.widths),
        sample=Sample(subject.base.example_input, subject.classes),
        budget=budget,
        limits=budget.absolute(base),
        base=base,
        floor=base,
        score=score,
    )


def _check_data(config: FamilyConfig, subject: Subject, sample: Sample) -> None:
    present_shape = input_shape_of(sample.inputs)
    for what, own, present in (
        ("inputs of", shape_text(subject.input_shape), shape_text(present_shape)),
        ("classes", ", ".join(subject.classes), ", ".join(sample.classes)),
    ):
        if own != present:
            raise ConfigError(
                f"{config.source} is for {what} {own[:60]}, but {config.data.source} has "
                f"{present[:60]}",
                field="data.source",
            )


def settings_file(config: FamilyConfig) -> SettingsFile:
    """Where the settings of a family study are kept."""
    return SettingsFile(
        config.directory / SETTINGS_FILES["family"],
        "family study",
        dataclasses.asdict(config.resolved()),
        dataclasses.asdict(FamilyConfig(config.source).resolved()),
        matters=lambda name: name.split(".")[0] in _IDENTITY and name not in _OF_THE_MACHINE,
    )
