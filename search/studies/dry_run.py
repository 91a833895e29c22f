"""A dry run: whatever a search would do for hours, done once with a few samples, in seconds.

A network may break where tracing does not look: in training, in a criterion, in fvcore, or when
it is stored and loaded. Jobs are performed as in the search itself, in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pruning.cost import Budget
from pruning.errors import (
    DataError,
    DiskFullError,
    EspalierError,
    ModelError,
    TrainingDivergedError,
    UnreachableBudgetError,
    first_line,
    reason_with_place,
)
from search.config.methods import method
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.data import Data
from search.system.child_process import ProcessEndedError, apart
from search.trials.certification import certify
from search.trials.job_context import JobContext
from search.trials.jobs import FromScratchJob, Job, Outcome, TrialJob
from search.trials.preflight import Preflight
from search.trials.search_space import Proposal, SearchSpace
from search.trials.targets import target_name
from search.trials.trial import perform

_MOST_SAMPLES = 2
"""Of each part of the data, so that large networks take seconds; batch norm needs two."""

_PACE = tuple(f"iterative.{name}" for name in ("epochs", "units", "minibatches"))
"""Settings of iterative pruning that follow from there being one step."""

_LEARNING_RATE = 1e-6
"""So low that one step on few images leads nowhere: it is not asked whether training converges."""


def try_out(
    dry_run: Callable[..., None], context: JobContext, data: Data, *further: object
) -> None:
    """Does a dry run in a process of its own, whose end is told in one line.

    Raises what the dry run raises, and ModelError or LostProcessError if its process ends.
    """
    try:
        apart(dry_run, context, data, *further)
    except ProcessEndedError as ended:
        raise ended.told(f"{_where(context, data)}, which ends its process") from ended


def dry_run_of_search(context: JobContext, data: Data, space: SearchSpace) -> None:
    """Performs a trial by each method, granularity and schedule, and a member of a family.

    Each is trained for an epoch, scored, pruned, fine-tuned, folded, counted, stored, loaded and
    verified. Raises ModelError, CriterionError or ArchitectureError, which says what failed.
    """
    config = context.config
    with _small(context, data) as (small, few):
        for number, choices in enumerate(_choices(config)):
            proposal = _in_one_step(space.mildest(*choices))
            there = _in_folder(small, str(number))
            if method(proposal.criterion).tries_every_unit:
                there, proposal = _of_one_group(there, proposal)
            stored = _perform(TrialJob(0, proposal), there, few, f" by {proposal.criterion}")
            if number == 0:  # what is stored of the others differs in numbers only
                with _in_one_line(there, few):
                    certify(stored, there)
        _perform(_narrowed(small.preflight), small, few)


def _in_one_step(proposal: Proposal) -> Proposal:
    """The same where one step of training is all that there is, see `_small`."""
    settings = {n: value for n, value in proposal.settings.items() if n not in _PACE}
    return dataclasses.replace(proposal, settings=settings)


def _choices(config: SearchConfig) -> list[tuple[str, str, str]]:
    """Methods by each schedule, and granularities, each at least once."""
    criteria, granularities, schedules = config.criteria, config.granularities, config.schedules
    choices = [(name, granularities[0], schedule) for schedule in schedules for name in criteria]
    return choices + [(criteria[0], mixture, schedules[0]) for mixture in granularities[1:]]


def dry_run_of_family(context: JobContext, data: Data, jobs: Iterable[FromScratchJob]) -> None:
    """Performs the first of these jobs of every kind, and verifies what comes of it.

    Raises ModelError or ArchitectureError, which says what failed.
    """
    firsts: dict[str, FromScratchJob] = {}
    for job in jobs:
        firsts.setdefault(job.origin, job)
    with _small(context, data) as (small, few):
        for job in firsts.values():
            stored = _perform(job, small, few)
            with _in_one_line(small, few):
                certify(stored, small)


@contextmanager
def _small(context: JobContext, data: Data) -> Iterator[tuple[JobContext, Data]]:
    """The same with epochs of one step, in a folder that goes at the end of the block."""
    config, devices = context.config, range(torch.cuda.device_count())
    taught = config.training if config.training.distill_from else TrainingConfig
    training = dataclasses.replace(
        config.training,
        epochs=min(1, config.training.epochs),
        fine_tune_epochs=1,
        scratch_epochs=1,
        batch_size=min(config.training.batch_size, _MOST_SAMPLES),
        learning_rate=_LEARNING_RATE,
        fine_tune_learning_rate=None,
        scratch_learning_rate=None,
        warmup_epochs=0,
        fine_tune_warmup_epochs=None,
        equal_compute=False,
        compute_limit=TrainingConfig.compute_limit,
        distill=False,  # there is no trained base network yet
        distill_temperature=taught.distill_temperature,
        distill_weight=taught.distill_weight,
    )
    gates = dataclasses.replace(config.gates, settle_epochs=min(1, config.gates.settle_epochs))
    study = dataclasses.replace(config.study, early_stopping=False)
    if not (config.targets or config.train_only):  # beside which no by-products may be said
        study = dataclasses.replace(study, by_products=1 if study.descend else 0)
    # A cluster's GPU need not be here.
    device = context.device if torch.cuda.is_available() else "cpu"
    with (
        tempfile.TemporaryDirectory(prefix="espalier-") as folder,
        torch.random.fork_rng(devices=devices),
    ):
        iterative = config.iterative
        if "iterative" in config.schedules:  # everything in the one step that there is
            iterative = dataclasses.replace(iterative, epochs=1, units=None, minibatches=1)
        small = dataclasses.replace(
            config,
            training=training,
            gates=gates,
            iterative=iterative,
            study=study,
            scoring_batches=1,
            targets=tuple(map(target_name, config.target_bounds[: 1 + study.descend])),
            runs=folder,
        )
        few = data.few(_MOST_SAMPLES)
        there = dataclasses.replace(context, config=small, device=device)
        _require_score(there, few)
        yield there, few


def _require_score(context: JobContext, data: Data) -> None:
    """ModelError where even the untrained network has a score that is no number."""
    model = context.first_network(context.config.seed)
    with _in_one_line(context, data):
        try:
            context.score(model, "validation", data)
        except TrainingDivergedError as error:
            raise ModelError(str(error)) from error


def _in_folder(context: JobContext, name: str) -> JobContext:
    runs = str(Path(context.config.runs) / name)
    return dataclasses.replace(context, config=dataclasses.replace(context.config, runs=runs))


def _of_one_group(context: JobContext, proposal: Proposal) -> tuple[JobContext, Proposal]:
    """The job of pruning the group with the fewest units alone; others look as if pinned."""
    preflight = context.preflight
    graph, config = preflight.graph, context.config
    smallest = min(map(graph.group, preflight.groups), key=lambda group: group.num_units)
    pinned = {
        group.name: dataclasses.replace(group, pinned="not in the dry run")
        for group in graph.prunable
        if group.name != smallest.name
    }
    width = smallest.floor(config.min_channels) * smallest.unit
    limits = Budget.parse("flops=100%").absolute(preflight.base)
    alone = dataclasses.replace(
        preflight, graph=graph.with_groups(pinned), groups=(smallest.name,), limits=limits
    )
    target = graph.cost({smallest.name: width}).flops
    return (
        dataclasses.replace(
            context, preflight=alone, config=dataclasses.replace(context.config, targets=())
        ),
        dataclasses.replace(proposal, target_flops=target),
    )


def _narrowed(preflight: Preflight) -> FromScratchJob:
    """A family's network with a channel less in every group that can do without one."""
    groups = map(preflight.graph.group, preflight.groups)
    widths = {g.name: g.width - g.unit for g in groups if g.num_units > g.min_units}
    return FromScratchJob("narrowed", "uniform", widths)


def _perform(job: Job, context: JobContext, data: Data, how: str = "") -> tuple[Outcome, ...]:
    """What comes of a job, as in the search; nothing if it is infeasible or diverges."""
    with _in_one_line(context, data, how):
        try:
            return perform(job, context, data, lambda _: None)
        except (TrainingDivergedError, UnreachableBudgetError):
            pass  # other proposals need not
    return ()


def _where(context: JobContext, data: Data) -> str:
    few = min(_MOST_SAMPLES, data.count("train"))
    return f"{context.config.model} fails a dry run on {few} samples"


@contextmanager
def _in_one_line(context: JobContext, data: Data, how: str = "") -> Iterator[None]:
    """Turns whatever a network raises into an error that says where."""
    where = f"{_where(context, data)}{how}"
    try:
        yield
    except (DataError, DiskFullError):
        raise
    except EspalierError as error:
        raise type(error)(f"{where}: {first_line(error)}") from error
    except (Exception, SystemExit) as error:  # a user's network may do anything
        raise ModelError(f"{where}: {reason_with_place(error)}") from error
