"""One trial, start to end, and one member of a family. Plain torch: no scheduler in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from copycat.architecture import Architecture, save
from copycat.build import build
from copycat.recipes import Recipe, recorded
from copycat.width_profile import WidthProfile
from pruning.cost import Bound, Budget
from pruning.criteria import SigmoidScale
from pruning.regularizers import RNI
from pruning.selection import select
from pruning.sigmoid_batchnorm import SigmoidBatchNorm2d, fold, to_sigmoid_batchnorm
from pruning.surgery import remove_channels
from search.config import SearchConfig
from search.datasets import ImageData
from search.image_sources import ImageSource
from search.preflight import Preflight
from search.tasks import EpochRecord, MemberTask, Origin, Outcome, Task, TrialTask
from search.training import EpochReport, evaluate, train

RECEDED = 0.1
"""A channel with σ(γ) below this counts as receded in the reported sparsity."""

Report = Callable[[EpochRecord], None]


@dataclass(frozen=True)
class Workshop:
    """Everything a task needs besides itself and the data."""

    config: SearchConfig
    preflight: Preflight
    device: str

    @property
    def torch_device(self) -> torch.device:
        """The device to train on."""
        return torch.device(self.device)


def perform(task: Task, workshop: Workshop, data: ImageData, report: Report) -> Outcome:
    """Do a task and store its architecture; whatever goes wrong is raised."""
    if isinstance(task, TrialTask):
        return run_trial(task, workshop, data, report)
    return train_member(task, workshop, data, report)


def run_trial(task: TrialTask, workshop: Workshop, data: ImageData, report: Report) -> Outcome:
    """Sparse training with σBN and RNI → score by σ(γ) → select → remove → fine-tune → store.

    The returned network meets both the budget and the proposal's target FLOPs.
    """
    config, preflight = workshop.config, workshop.preflight
    seed = _seed(config, task.number)
    num_steps = config.training.epochs + config.training.fine_tune_epochs
    model = to_sigmoid_batchnorm(fresh_base(preflight, seed)[0], seed=seed)
    model = model.to(workshop.torch_device)

    def sparse_epoch(epoch: EpochReport) -> None:
        report(_record("sparse training", epoch, 0, num_steps, _sparsity(model)))

    trained = train(
        model,
        data,
        epochs=config.training.epochs,
        config=config.training,
        seed=seed,
        device=workshop.torch_device,
        penalty=RNI(task.proposal.strength, task.proposal.shift),
        on_epoch=sparse_epoch,
    )
    scores = SigmoidScale().score(model, preflight.graph)
    target = _with_target(preflight.limits, task.proposal.target_flops)
    plan = select(
        {name: scores[name] for name in preflight.groups},
        preflight.graph,
        target,
        min_channels=config.min_channels,
    )
    pruned = remove_channels(model, preflight.graph, plan)
    details = {
        "accuracy_before_pruning": trained.validation_accuracy,
        "accuracy_after_pruning": _accuracy(pruned, data.validation, workshop, data),
        "sparsity": _sparsity(model),
    }

    def tuning_epoch(epoch: EpochReport) -> None:
        report(_record("fine-tuning", epoch, config.training.epochs, num_steps))

    train(
        pruned,
        data,
        epochs=config.training.fine_tune_epochs,
        config=config.training,
        seed=seed + 1,
        device=workshop.torch_device,
        on_epoch=tuning_epoch,
    )
    profile = WidthProfile(plan.widths)
    result = Finished(task.key, "fine-tuned", task.number, None, 1.0, profile, details)
    return _store(result, fold(pruned), workshop, data)


def train_member(task: MemberTask, workshop: Workshop, data: ImageData, report: Report) -> Outcome:
    """Build the member's shape with fresh weights, train it from scratch, store it."""
    config, preflight = workshop.config, workshop.preflight
    profile = WidthProfile(task.widths)
    seed = _seed(config, task.trial if task.trial is not None else 0)
    base, recipe = fresh_base(preflight, seed)
    model = build(
        base, profile, preflight.example_input, seed, graph=preflight.graph, recipe=recipe
    )
    model = model.to(workshop.torch_device)

    def on_epoch(epoch: EpochReport) -> None:
        report(_record("from scratch", epoch, 0, config.training.scratch_epochs))

    train(
        model,
        data,
        epochs=config.training.scratch_epochs,
        config=config.training,
        seed=seed,
        device=workshop.torch_device,
        on_epoch=on_epoch,
    )
    result = Finished(task.key, task.origin, task.trial, task.rung, task.alpha, profile, {})
    return _store(result, model, workshop, data)


@dataclass(frozen=True)
class Finished:
    """A trained network's place in the search."""

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    profile: WidthProfile
    details: dict[str, float]


def fresh_base(preflight: Preflight, seed: int) -> tuple[nn.Module, Recipe]:
    """The base network with weights drawn from `seed`, and how its constructor drew them.

    The global generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recorded(preflight.builder)


def _store(result: Finished, model: nn.Module, workshop: Workshop, data: ImageData) -> Outcome:
    """Measure, certify and write the architecture; the test split is used here, once."""
    preflight, config = workshop.preflight, workshop.config
    cost = preflight.graph.cost(result.profile.widths)
    accuracies = {
        "validation_accuracy": _accuracy(model, data.validation, workshop, data),
        "test_accuracy": _accuracy(model, data.test, workshop, data),
    }
    path = f"architectures/{result.key}"
    provenance = {
        "search": config.name,
        "data": config.data.source,
        "budget": str(preflight.budget),
        "origin": result.origin,
        "trial": result.trial,
        "rung": result.rung,
        "alpha": result.alpha,
        "seed": config.seed,
        **accuracies,
        **result.details,
        "mean": list(data.mean),
        "std": list(data.std),
    }
    architecture = Architecture(
        preflight.builder,
        result.profile,
        preflight.input_shape,
        preflight.classes,
        cost,
        provenance,
    )
    save(Path(config.directory) / path, architecture, model.cpu())
    return Outcome(
        key=result.key,
        origin=result.origin,
        trial=result.trial,
        rung=result.rung,
        alpha=result.alpha,
        flops=cost.flops,
        params=cost.params,
        profile=result.profile.digest,
        path=path,
        details=result.details,
        **accuracies,
    )


def _accuracy(model: nn.Module, split: ImageSource, workshop: Workshop, data: ImageData) -> float:
    device = workshop.torch_device
    return evaluate(model.to(device), split, mean=data.mean, std=data.std, device=device)


def _with_target(limits: Budget, target_flops: int) -> Budget:
    """The budget with its FLOPs lowered to the proposal's target."""
    flops = limits.limit("flops")
    lowered = target_flops if flops is None else min(target_flops, int(flops))
    others = tuple(bound for bound in limits.bounds if bound.quantity != "flops")
    return Budget((Bound("flops", lowered), *others))


def _record(
    stage: Literal["sparse training", "fine-tuning", "from scratch"],
    epoch: EpochReport,
    steps_before: int,
    num_steps: int,
    sparsity: float | None = None,
) -> EpochRecord:
    return EpochRecord(
        stage,
        steps_before + epoch.epoch,
        num_steps,
        epoch.train_loss,
        epoch.validation_accuracy,
        epoch.learning_rate,
        sparsity,
    )


def _sparsity(model: nn.Module) -> float:
    """Share of σBN channels that have receded."""
    scales = [m.importance.detach() for m in model.modules() if isinstance(m, SigmoidBatchNorm2d)]
    everything: Tensor = torch.cat(scales)
    return float((everything < RECEDED).float().mean())


def _seed(config: SearchConfig, number: int) -> int:
    """A seed of its own for every trial; a member shares the seed of its trial."""
    return config.seed * 10_007 + 2 * number
