"""One member of a family, trained from scratch."""

from __future__ import annotations

from dataclasses import replace

import torch

from copycat.build import build
from copycat.builder import Builder
from pruning.tracing import trace
from search.data.datasets import ImageData
from search.training.distillation import distillation
from search.training.trainer import Trainer
from search.trials.artifacts import Finished, store
from search.trials.job_context import Report, Workshop, fresh_base
from search.trials.jobs import MemberTask, Outcome
from search.trials.staged_training import Course


def train_member(task: MemberTask, workshop: Workshop, data: ImageData, report: Report) -> Outcome:
    """Build the member's shape with fresh weights, train it from scratch, store it."""
    workshop = _workshop_of(task, workshop)
    config, preflight = workshop.config, workshop.preflight
    profile, epochs = task.profile, member_epochs(task, workshop)
    number = task.trial if task.trial is not None else 0
    seed = config.seed_of(number) if task.seed is None else task.seed
    base, recipe = fresh_base(preflight, seed)
    model = build(
        base, profile, preflight.example_input, seed, graph=preflight.graph, recipe=recipe
    )
    course = Course(workshop.checkpoints(task.key), epochs, report)
    trainer = Trainer(
        model,
        data,
        epochs=epochs,
        config=config.training,
        seed=seed,
        device=workshop.torch_device,
        objective=distillation(
            replace(config.training, distill_from=workshop.teacher),
            workshop.torch_device,
            input_shape=preflight.input_shape,
            classes=preflight.classes,
            trust=preflight.builder.modules,
        ),
    )
    trained = course.train("from scratch", trainer)
    record: dict[str, object] = {"epochs": epochs}
    if task.seed is not None:
        record["seed"] = task.seed
    if task.budget:
        record["budget"] = task.budget
    if config.training.distill_from:
        record["distill_from"] = config.training.distill_from
    flops = preflight.graph_of(profile).cost(profile.widths).flops
    result = Finished(
        task.key,
        task.origin,
        task.trial,
        task.rung,
        task.alpha,
        profile,
        seed=seed,
        images=trained.images_seen,
        compute=float(trained.images_seen * flops),
        equal_compute=config.training.equal_compute or task.equal_compute,
        details={} if task.rho is None else {"rho": task.rho},
        record=record,
        curve=course.records,
    )
    return store(result, model, workshop, data)


def _workshop_of(task: MemberTask, workshop: Workshop) -> Workshop:
    """The workshop, with another base network if the member has one of its own."""
    if task.builder is None:
        return workshop
    preflight, builder = workshop.preflight, Builder(*task.builder)
    with torch.random.fork_rng(devices=[]):  # weights do not matter here
        graph = trace(builder(), preflight.example_input)
    return replace(workshop, preflight=replace(preflight, builder=builder, graph=graph))


def member_epochs(task: MemberTask, workshop: Workshop) -> int:
    """How long the member trains: as many epochs as all, or more at equal compute."""
    training, preflight = workshop.config.training, workshop.preflight
    if task.equal_compute:
        training = replace(training, equal_compute=True)
    if not training.equal_compute:  # saves tracing shapes that lack structures
        return training.epochs_from_scratch(preflight.base.flops, preflight.base.flops)
    profile = task.profile
    flops = preflight.graph_of(profile).cost(profile.widths).flops
    return training.epochs_from_scratch(flops, preflight.base.flops)
