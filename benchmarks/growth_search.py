"""A search in which all is real but the training: what each settled trial costs around it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from copycat import build
from copycat.architecture import Architecture, read, save
from copycat.architecture.document import to_json
from copycat.width_profile import WidthProfile
from mlflow_server.runs import RunRecorder
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.data import Data
from search.scheduling.compute_budget import Rationed
from search.scheduling.optuna_study import StudySource, study_storage
from search.storage.layout import ARCHITECTURES_FOLDER, CURVE_FILE, RUNGS_FOLDER, TEST_SAMPLES_FILE
from search.studies.search_stages import trial_source
from search.studies.search_study import SearchStudy, open_context
from search.studies.session import Session
from search.tracking.event_log import EventLog
from search.trials.artifacts import as_npy, not_stored, stored_outcome
from search.trials.early_stopping import Halving
from search.trials.job_context import JobContext
from search.trials.jobs import BASE, Ending, EpochRecord, Job, Outcome, TrialJob

EPOCHS, FINE_TUNE_EPOCHS = 8, 4
_SHAPES = 64
"""Networks of different widths that the stub has ready, trained by nobody."""

_IMAGES = 240


def config_of(folder: Path, trials: int, sampler: str, name: str = "growth") -> SearchConfig:
    """A search of so many trials on digits; nothing is chosen after them."""
    return SearchConfig(
        model="digits-vgg",
        budget=("flops=90%",),
        training=TrainingConfig(EPOCHS, FINE_TUNE_EPOCHS, 1),
        study=StudyConfig(sampler=sampler, by_products=0, tempered_trials=0, candidate_epochs=0),
        trials=trials,
        profiles=0,
        concurrency=1,
        device="cpu",
        name=name,
        runs=str(folder),
    )


@dataclasses.dataclass
class Spent:
    """Processor seconds of the driving thread per settled trial, by what they went into."""

    asking: list[float] = dataclasses.field(default_factory=list)
    telling: list[float] = dataclasses.field(default_factory=list)
    rungs: list[float] = dataclasses.field(default_factory=list)

    def per_trial(self) -> list[float]:
        """Asking and telling, which nothing else is scheduled during."""
        return [one + other for one, other in zip(self.asking, self.telling, strict=True)]


class StubTraining:
    """Makes what a worker would leave behind: networks of ready shapes, scores that are drawn.

    rungs: seconds of each trial's early stopping, which a worker spends.
    """

    def __init__(self, context: JobContext, folder: Path) -> None:
        self._context, self._pool = context, folder
        self._generator = random.Random(0)
        training, score = context.config.training, context.preflight.score
        self._halving = Halving(context.directory / RUNGS_FOLDER, training.epochs, score)
        self._ready = [self._made(number) for number in range(_SHAPES)]

    def _made(self, number: int) -> Architecture:
        folder = self._pool / f"shape-{number}"
        if folder.exists():
            return read(folder)
        preflight = self._context.preflight
        groups = map(preflight.graph.group, preflight.groups)
        profile = WidthProfile(
            {g.name: g.unit * self._generator.randint(g.floor(3), g.num_units) for g in groups}
        )
        if number == 0:
            profile = WidthProfile({})
        graph = preflight.graph_of(profile)
        model = build(preflight.builder(), profile, preflight.example_input)
        cost = graph.cost(profile.widths)
        return save(
            folder,
            Architecture(
                preflight.builder, profile, preflight.input_shape, preflight.classes, cost
            ),
            model,
        )

    def epochs(self) -> Iterator[EpochRecord]:
        """As a trial goes through them."""
        for step in range(1, EPOCHS + FINE_TUNE_EPOCHS + 1):
            yield EpochRecord(
                "sparse training" if step <= EPOCHS else "fine-tuning",
                step,
                EPOCHS + FINE_TUNE_EPOCHS,
                train_loss=1 / step,
                validation_score=step / 20,
                learning_rate=0.1,
                sparsity=0.01,
                images=step * _IMAGES,
                time_ms=time.time_ns() // 1_000_000,
            )

    def judged(self, job: Job) -> float:
        """Seconds that its early stopping takes on every rung, whatever comes of it."""
        begun = time.thread_time()
        for epoch in self._halving.rungs:
            value, flops = self._generator.random(), self._generator.randint(10**5, 10**6)
            try:
                self._halving.require_worth(job.key, epoch, value, flops)
            except Exception:  # what is stopped early here is finished all the same
                continue
        return time.thread_time() - begun

    def outcome(self, job: Job, curve: Sequence[EpochRecord]) -> Outcome:
        """Stores a network under the job's key."""
        number = 0 if job is BASE else self._generator.randrange(1, _SHAPES)
        ready = self._ready[number]
        share = ready.cost.flops / self._context.preflight.base.flops
        score = 0.5 + 0.4 * math.sqrt(share) * self._generator.random()
        folder = self._context.directory / ARCHITECTURES_FOLDER / job.key
        folder.mkdir(parents=True)
        source = self._pool / f"shape-{number}"
        provenance = {
            "origin": "base" if job is BASE else "fine-tuned",
            "trial": job.number if isinstance(job, TrialJob) else None,
            "rung": None,
            "alpha": 1.0,
            "images": curve[-1].images,
            "compute": float(curve[-1].images * ready.cost.flops),
            "validation_score": score,
            "test_score": score - 0.01,
            "details": {"score_before_pruning": score, "score_after_pruning": score - 0.1},
        }
        stored = dataclasses.replace(ready, provenance=provenance)
        (folder / "architecture.json").write_text(to_json(stored), encoding="utf-8")
        os.link(source / "weights.safetensors", folder / "weights.safetensors")
        records = [dataclasses.asdict(record) for record in curve]
        (folder / CURVE_FILE).write_text(json.dumps(records))
        (folder / TEST_SAMPLES_FILE).write_bytes(self._samples(score))
        return stored_outcome(self._context, f"{ARCHITECTURES_FOLDER}/{job.key}")

    def _samples(self, score: float) -> bytes:
        generator = torch.Generator().manual_seed(self._generator.randrange(2**31))
        return as_npy((torch.rand(360, 1, generator=generator) < score).to(torch.uint8))


@contextmanager
def opened(
    config: SearchConfig, recorder: RunRecorder, context: JobContext, data: Data
) -> Iterator[tuple[Session, StudySource]]:
    """The session and the source of a search, as run_study has them."""
    study = SearchStudy(config)
    with ExitStack() as stack:
        study.settings.write()
        event_log = EventLog(context, study.kind, study.num_trials)
        stack.enter_context(event_log)
        session = Session(
            study,
            context,
            data,
            console=Console(quiet=True),
            recorder=recorder,
            event_log=event_log,
        )
        session.compute_budget.write()
        session.runs.begin()
        yield session, trial_source(context, data, study_storage(context.directory))


def settle_all(
    session: Session, source: StudySource, stub: StubTraining, *, most: int | None = None
) -> Spent:
    """Performs every trial, or so many, as the searcher of Ray's does, in this thread."""
    spent = Spent()
    images = (EPOCHS + FINE_TUNE_EPOCHS) * _IMAGES
    rationed = Rationed(
        source, session.compute_budget, images, is_needed=lambda: not source.has_outcomes
    )
    observer = session.observer
    session.expect(len(source) * (EPOCHS + FINE_TUNE_EPOCHS))
    while most is None or len(spent.asking) < most:
        begun = time.thread_time()
        job = rationed.next()
        if job is None:
            break
        observer.started(job)
        spent.asking.append(time.thread_time() - begun)
        curve = list(stub.epochs())
        spent.rungs.append(stub.judged(job))
        outcome = stub.outcome(job, curve)
        begun = time.thread_time()
        for record in curve:
            observer.epochs(job, [record])
        missing = not_stored(session.context, [outcome])
        if missing:
            ending = Ending("failed", missing)
            rationed.ended(job, ending)
            observer.ended(job, ending)
        else:
            rationed.finished(job, [outcome])
            observer.finished(job, [outcome])
        spent.telling.append(time.thread_time() - begun)
    return spent


def settle_base(session: Session, stub: StubTraining) -> Outcome:
    """The base network, trained by nobody either."""
    curve = list(stub.epochs())
    outcome = stub.outcome(BASE, curve)
    session.observer.started(BASE)
    session.observer.finished(BASE, [outcome])
    return outcome


def context_of(config: SearchConfig) -> tuple[JobContext, Data]:
    """What the jobs need, as a search finds it out."""
    return open_context(config, Console(quiet=True))
