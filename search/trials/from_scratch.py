"""One member of a family, or the base network, trained from scratch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from copycat.build import build
from copycat.builder import Builder
from pruning.tracing import whole_trace
from search.data.data import Data
from search.training.memory_format import laid_out
from search.training.own_loop import trainer_for
from search.training.trainer import TrainingReport
from search.trials.artifacts import Finished, store
from search.trials.job_context import JobContext, Report, fresh_base
from search.trials.jobs import FromScratchJob, Outcome
from search.trials.staged_training import StagedTraining


def train_from_scratch(
    job: FromScratchJob, context: JobContext, data: Data, report: Report
) -> Outcome:
    """Build the member's shape with fresh weights, train it from scratch, store it.

    The base network begins with the weights that were given, if there are any, and learns from
    nobody.
    """
    context = _context_of(job, context)
    config, preflight = context.config, context.preflight
    profile, epochs = job.profile, member_epochs(job, context)
    number = job.trial if job.trial is not None else 0
    seed = config.seed_of(number) if job.seed is None else job.seed
    starts_trained = job.origin == "base" and context.weights is not None
    with StagedTraining(
        context.checkpoints(job.key), epochs, report, config.resources.checkpoint_seconds
    ) as staged:
        model = laid_out(_first_network(job, context, seed), data.memory_format)
        flops = preflight.graph_of(profile).cost(profile.widths).flops
        trained = TrainingReport((), 0.0)
        if epochs:
            trainer = trainer_for(
                model,
                data,
                task=context.task if job.origin == "base" else context.task_of_smaller,
                epochs=epochs,
                config=config.training if starts_trained else config.training.for_scratch(),
                seed=seed,
                device=context.torch_device,
                ranks=context.ranks,
            )
            trained = staged.train("from scratch", trainer, lambda: trainer.images_seen * flops)
        result = Finished(
            job.key,
            job.origin,
            job.trial,
            job.rung,
            job.alpha,
            profile,
            seed=seed,
            images=trained.images_seen,
            compute=float(trained.images_seen * flops),
            equal_compute=config.training.equal_compute or job.equal_compute,
            details={} if job.rho is None else {"rho": job.rho},
            record=_record(job, context, epochs) | staged.record,
            curve=staged.records,
        )
        return store(result, model, context, data)


def _first_network(job: FromScratchJob, context: JobContext, seed: int) -> nn.Module:
    """What training begins with."""
    preflight = context.preflight
    if job.origin == "base" and context.weights is not None:
        return context.first_network(seed)
    base, recipe = fresh_base(preflight, seed)
    return build(
        base, job.profile, preflight.example_input, seed, graph=preflight.graph, recipe=recipe
    )


def _record(job: FromScratchJob, context: JobContext, epochs: int) -> dict[str, object]:
    """What its provenance says of its training alone."""
    is_base = job.origin == "base"
    optional = {
        "seed": job.seed,
        "budget": job.budget,
        "between": list(job.between) or "",
        "distill_from": "" if is_base else context.config.training.teacher,
        "weights": context.config.weights if is_base else "",
    }
    return {"epochs": epochs} | {n: v for n, v in optional.items() if v not in (None, "")}


def _context_of(job: FromScratchJob, context: JobContext) -> JobContext:
    """The context, with another base network if the member has one of its own."""
    if job.builder is None:
        return context
    preflight, builder = context.preflight, Builder(*job.builder)
    with torch.random.fork_rng(devices=[]):  # weights do not matter here
        graph = whole_trace(builder(), preflight.example_input)
    return replace(context, preflight=replace(preflight, builder=builder, graph=graph))


def member_epochs(job: FromScratchJob, context: JobContext) -> int:
    """How long the member trains: as many epochs as all, or more at equal compute.

    The base network is as it is where its weights were given.
    """
    training, preflight = context.config.training, context.preflight
    if job.origin == "base" and context.is_base_trained:
        return 0
    if job.equal_compute:
        training = replace(training, equal_compute=True)
    if not training.equal_compute:  # saves tracing shapes that lack structures
        return training.epochs_from_scratch(preflight.base.flops, preflight.base.flops)
    profile = job.profile
    flops = preflight.graph_of(profile).cost(profile.widths).flops
    return training.epochs_from_scratch(flops, preflight.base.flops)
