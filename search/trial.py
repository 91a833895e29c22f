"""One trial, start to end, and one member of a family. Plain torch: no scheduler in sight."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from copycat.architecture import Architecture, save
from copycat.build import build
from copycat.builder import Builder
from copycat.recipes import Recipe, recorded
from copycat.width_profile import WidthProfile
from pruning.cost import Bound, Budget
from pruning.sigmoid_batchnorm import fold
from pruning.tracing import trace
from search.config import SearchConfig
from search.datasets import ImageData
from search.distillation import distillation
from search.image_sources import ImageSource
from search.methods import method
from search.minibatches import scoring_batches
from search.preflight import Preflight
from search.sparse_network import Pruned, SparseNetwork
from search.tasks import EpochRecord, MemberTask, Origin, Outcome, Stage, Task, TrialTask
from search.training import EpochReport, TrainingReport, evaluate, train

SCORES_FILE = "scores.json"
"""Beside a pruned architecture: what its trial's method thought of every channel."""

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
    """Train with gates and the method's penalty → prune → fine-tune → store.

    The returned network meets both the budget and the proposal's target FLOPs. A method that
    prunes at initialisation does so first, and the smaller network has all the epochs.
    """
    return _Trial(task, workshop, data, report).run()


class _Trial:
    def __init__(
        self, task: TrialTask, workshop: Workshop, data: ImageData, report: Report
    ) -> None:
        self._task, self._workshop, self._data, self._report = task, workshop, data, report
        self._config, self._seed = workshop.config, _seed(workshop.config, task.number)
        self._sparse = SparseNetwork(
            fresh_base(workshop.preflight, self._seed)[0],
            task.proposal,
            workshop.config,
            workshop.preflight,
            seed=self._seed,
            device=workshop.torch_device,
        )

    def run(self) -> Outcome:
        """Every stage in its order."""
        details: dict[str, float] = {}
        if method(self._task.proposal.criterion).prunes_untrained:
            pruned = self._prune()
            reports = [self._train("training", pruned.model)]
        else:
            sparse = self._train("sparse training", self._sparse.model, self._sparse)
            details["accuracy_before_pruning"] = sparse.validation_accuracy
            if (sparsity := self._sparse.sparsity) is not None:
                details["sparsity"] = sparsity
            pruned = self._prune()
            details["accuracy_after_pruning"] = _accuracy(
                pruned.model, self._data.validation, self._workshop, self._data
            )
            reports = [sparse]
        reports.append(self._train("fine-tuning", pruned.model))
        return self._stored(pruned, details, reports)

    def _prune(self) -> Pruned:
        limits = self._workshop.preflight.limits
        batches = scoring_batches(
            self._data,
            self._config.scoring_batches,
            batch_size=self._config.training.batch_size,
            seed=self._seed,
            device=self._workshop.torch_device,
        )
        target = self._task.proposal.target_flops
        return self._sparse.pruned(batches, _with_target(limits, target))

    def _train(
        self, stage: Stage, model: nn.Module, sparse: SparseNetwork | None = None
    ) -> TrainingReport:
        """One stage; a sparse network with what its method adds to the loss."""
        config, is_first = self._config.training, stage != "fine-tuning"
        num_steps = config.epochs + config.fine_tune_epochs

        def on_epoch(epoch: EpochReport) -> None:
            steps_before = 0 if is_first else config.epochs
            sparsity = None if sparse is None else sparse.sparsity
            self._report(_record(stage, epoch, steps_before, num_steps, sparsity))

        return train(
            model,
            self._data,
            epochs=config.epochs if is_first else config.fine_tune_epochs,
            config=config,
            seed=self._seed if is_first else self._seed + 1,
            device=self._workshop.torch_device,
            penalty=None if sparse is None else sparse.penalty,
            after_step=None if sparse is None else sparse.after_step,
            on_epoch=on_epoch,
        )

    def _stored(
        self, pruned: Pruned, details: dict[str, float], reports: Sequence[TrainingReport]
    ) -> Outcome:
        task, preflight = self._task, self._workshop.preflight
        flops = preflight.graph_of(pruned.profile).cost(pruned.profile.widths).flops
        before, after = (report.images_seen for report in reports)
        was_pruned_first = method(task.proposal.criterion).prunes_untrained
        result = Finished(
            task.key,
            "fine-tuned",
            task.number,
            None,
            1.0,
            pruned.profile,
            details,
            seed=self._seed,
            images=before + after,
            compute=before * (flops if was_pruned_first else preflight.base.flops) + after * flops,
        )
        outcome = _store(result, fold(pruned.model), self._workshop, self._data)
        if pruned.scores:
            lists = {name: values.tolist() for name, values in pruned.scores.items()}
            content = {"criterion": task.proposal.criterion, "scores": lists}
            file = Path(self._config.directory) / outcome.path / SCORES_FILE
            file.write_text(json.dumps(content))
        return outcome


def train_member(task: MemberTask, workshop: Workshop, data: ImageData, report: Report) -> Outcome:
    """Build the member's shape with fresh weights, train it from scratch, store it."""
    workshop = _workshop_of(task, workshop)
    config, preflight = workshop.config, workshop.preflight
    profile, epochs = task.profile, member_epochs(task, workshop)
    number = task.trial if task.trial is not None else 0
    seed = _seed(config, number) if task.seed is None else task.seed
    base, recipe = fresh_base(preflight, seed)
    model = build(
        base, profile, preflight.example_input, seed, graph=preflight.graph, recipe=recipe
    )
    model = model.to(workshop.torch_device)

    def on_epoch(epoch: EpochReport) -> None:
        report(_record("from scratch", epoch, 0, epochs))

    trained = train(
        model,
        data,
        epochs=epochs,
        config=config.training,
        seed=seed,
        device=workshop.torch_device,
        objective=distillation(config.training, preflight, workshop.torch_device),
        on_epoch=on_epoch,
    )
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
        {},
        seed=seed,
        images=trained.images_seen,
        compute=float(trained.images_seen * flops),
        equal_compute=config.training.equal_compute or task.equal_compute,
        record=record,
    )
    return _store(result, model, workshop, data)


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
        return training.scratch_epochs
    profile = task.profile
    flops = preflight.graph_of(profile).cost(profile.widths).flops
    return training.epochs_from_scratch(flops, preflight.base.flops)


@dataclass(frozen=True)
class Finished:
    """A trained network's place in the search; `record` goes into its provenance alone."""

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    profile: WidthProfile
    details: dict[str, float]
    seed: int
    images: int
    compute: float
    equal_compute: bool = False
    record: Mapping[str, object] = field(default_factory=dict)


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
    cost = preflight.graph_of(result.profile).cost(result.profile.widths)
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
        "seed_of_weights": result.seed,
        "equal_compute": result.equal_compute,
        "images": result.images,
        "compute": result.compute,
        **accuracies,
        **result.details,
        **result.record,
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
        seed=result.seed,
        equal_compute=result.equal_compute,
        images=result.images,
        compute=result.compute,
        weight_bytes=cost.weight_bytes,
        peak_activation_bytes=cost.peak_activation_bytes,
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
    stage: Stage,
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


def _seed(config: SearchConfig, number: int) -> int:
    """A seed of its own for every trial; a member shares the seed of its trial."""
    return config.seed * 10_007 + 2 * number
