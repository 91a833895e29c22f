"""One trial, start to end. Plain torch: no scheduler in sight."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pruning.criteria import Batches
from pruning.errors import (
    ConfigError,
    DiskFullError,
    EspalierError,
    StoppedEarlyError,
    TrainingDivergedError,
    UnreachableBudgetError,
)
from pruning.networks.copies import moved
from pruning.sigmoid_batchnorm import fold
from search.config.methods import method
from search.data.data import Data
from search.storage.atomic_files import disk_full_as_error
from search.storage.layout import RUNGS_FOLDER, SCORES_FILE
from search.tasks.criterion_loss import criterion_loss
from search.training.batchnorm_statistics import estimate_statistics
from search.training.freezing import frozen_but
from search.training.own_loop import trainer_for
from search.training.trainer import EpochReport, TrainingReport
from search.trials.artifacts import Finished, store
from search.trials.early_stopping import Halving
from search.trials.from_scratch import train_from_scratch
from search.trials.job_context import (
    STATISTICS_BATCHES,
    JobContext,
    Report,
)
from search.trials.jobs import Ending, Job, Outcome, Stage, TrialJob
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.staged_training import StagedTraining
from search.trials.targets import Target, targets_of


def perform(job: Job, context: JobContext, data: Data, report: Report) -> tuple[Outcome, ...]:
    """Do a job, or go on with it, and store what comes of it; `ending_of` reads what it raises.

    Only one process at a time performs a job of one key.
    """
    with disk_full_as_error(context.directory), context.checkpoints(job.key).locked():
        if isinstance(job, TrialJob):
            return run_trial(job, context, data, report)
        return (train_from_scratch(job, context, data, report),)


def ending_of(error: Exception) -> Ending:
    """What an error of `perform` means for its job; DiskFullError, for the search, is raised."""
    if isinstance(error, DiskFullError):
        raise error
    known = isinstance(error, EspalierError)
    reason = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
    if isinstance(error, StoppedEarlyError):
        return Ending("stopped early", reason)
    if isinstance(error, UnreachableBudgetError):
        return Ending("infeasible", reason)
    return Ending("failed", reason, is_final=isinstance(error, TrainingDivergedError))


def run_trial(
    job: TrialJob, context: JobContext, data: Data, report: Report
) -> tuple[Outcome, ...]:
    """Train with gates and the method's penalty → prune → settle, if asked for → fine-tune → store.

    The first network meets both the budget and the proposal's target; those after it are pruned
    from the same training to the other targets, see `targets_of`. A method that prunes at
    initialisation does so first, and the smaller network has all the epochs.
    Raises StoppedEarlyError where other trials have left this one behind.
    """
    if job.proposal.schedule != "one-shot":
        raise ConfigError(f"the schedule {job.proposal.schedule} is not there yet")
    return _Trial(job, context, data, report).run()


@dataclass
class _Product:
    """A network that one sparse training gives rise to; `weights` are those to fine-tune.

    is_settled: whether those are of the smaller network, and not of that with gates at 0 or 1.
    images: that the latter was trained on.
    """

    key: str
    pruning: Pruning
    details: dict[str, float]
    weights: Mapping[str, Tensor]
    is_settled: bool = True
    images: int = 0

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        pruning, scores = self.pruning.to_mapping(), dict(self.pruning.scores)
        kept: dict[str, Any] = {"key": self.key, "pruning": pruning, "scores": scores}
        kept |= {"details": self.details, "weights": dict(self.weights)}
        return kept | {"is_settled": self.is_settled, "images": self.images}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Product:
        """The inverse of `to_state`."""
        pruning = Pruning.from_mapping(state["pruning"], state["scores"])
        rest = {name: state[name] for name in ("details", "weights", "is_settled", "images")}
        return cls(state["key"], pruning, **rest)


class _Trial:
    def __init__(self, job: TrialJob, context: JobContext, data: Data, report: Report) -> None:
        self._job, self._context, self._data = job, context, data
        self._config, self._preflight = context.config, context.preflight
        self._training = self._config.training
        self._seed = self._config.seed_of(job.number, job.repeat)
        self._seed_after = self._config.fine_tuning_seed_of(job.number, job.repeat)
        self._prunes_first = method(job.proposal.criterion).prunes_untrained
        self._targets = targets_of(job.proposal, self._config, self._preflight)
        self._sparse = SparseNetwork(
            context.first_network(self._seed),
            job.proposal,
            context.config,
            context.preflight,
            seed=self._seed,
            device=context.torch_device,
            loss=criterion_loss(context.task),
            is_trained=context.weights is not None,
        )
        self._epochs_after = self._settle_epochs + self._training.fine_tune_epochs
        num_steps = self._training.epochs + len(self._targets) * self._epochs_after
        self._staged = StagedTraining(context.checkpoints(job.key), num_steps, report)
        is_judged = self._config.study.early_stopping and not job.repeat
        folder = context.directory / RUNGS_FOLDER
        score = context.preflight.score
        self._halving = Halving(folder, self._training.epochs, score) if is_judged else None

    def run(self) -> tuple[Outcome, ...]:
        """Every stage that is still to be done, in its order."""
        staged = self._staged
        if staged.stage == 0:
            products = self._pruned_and_trained() if self._prunes_first else self._sparse_trained()
            states = [product.to_state() for product in products]
            staged.advance({"products": states, "images": staged.images})
        outcomes = [Outcome.from_mapping(stored) for stored in staged.notes.get("outcomes", [])]
        for state in staged.notes["products"][len(outcomes) :]:
            if not state["is_settled"]:
                state.update(self._settled(_Product.from_state(state)).to_state())
                staged.advance({"images": staged.images})
            outcomes.append(self._fine_tuned(_Product.from_state(state)))
            state["weights"] = {}  # those that training began with are of no more use
            done = [outcome.to_mapping() for outcome in outcomes]
            staged.advance({"outcomes": done, "images": staged.images})
        return tuple(outcomes)

    def _pruned_and_trained(self) -> list[_Product]:
        notes, target = self._staged.notes, self._targets[0]
        key = self._job.product_key(target.suffix)
        if "pruned first" not in notes:  # kept, because a GPU might not decide it again the same
            first = _Product(key, self._pruning(target), {}, {})
            notes["pruned first"] = first.to_state()
        pruning = _Product.from_state(notes["pruned first"]).pruning
        model = self._sparse.without(pruning)
        flops = self._flops(pruning)
        self._train(
            "training",
            model,
            after_epoch=lambda epoch: self._judge(epoch, epoch.validation_score, flops),
        )
        return [_Product(key, pruning, {}, model.state_dict())]

    def _sparse_trained(self) -> list[_Product]:
        sparse = self._train(
            "sparse training", self._sparse.model, self._sparse, after_epoch=self._prune_and_judge
        )
        if not sparse.epochs and method(self._job.proposal.criterion).uses_sigmoid:
            self._estimate_statistics(self._sparse.model)  # which the offsets have left behind
        before = {
            "score_before_pruning": sparse.validation_score
            if sparse.epochs
            else self._context.score(self._sparse.model, "validation", self._data)
        }
        if (sparsity := self._sparse.sparsity) is not None:
            before["sparsity"] = sparsity
        own, *further = self._targets
        products = [self._product(own, before)]
        for target in further:
            with suppress(UnreachableBudgetError):  # the floor was another granularity's
                products.append(self._product(target, before))
        return products

    def _product(self, target: Target, before: Mapping[str, float]) -> _Product:
        pruning = self._pruning(target)
        model = self._sparse.without(pruning)
        after = self._context.score(model, "validation", self._data)
        key = self._job.product_key(target.suffix)
        details = {**before, "score_after_pruning": after}
        if self._settle_epochs:
            weights = self._sparse.settled(pruning).state_dict()
            return _Product(key, pruning, details, weights, is_settled=False)
        return _Product(key, pruning, details, model.state_dict())

    @property
    def _settle_epochs(self) -> int:
        """Epochs of each network with its gates at 0 or 1."""
        return self._config.gates.settle_epochs if self._sparse.is_gated else 0

    def _settled(self, product: _Product) -> _Product:
        """Trained with its gates at 0 or 1, then without them (Haider and Taj, §5.4)."""
        gated = self._sparse.settled(product.pruning)
        gated.load_state_dict(product.weights)
        trained = self._train("settling", gated)
        model = self._sparse.without(product.pruning, gated)
        return replace(
            product, weights=model.state_dict(), is_settled=True, images=trained.images_seen
        )

    def _pruning(self, target: Target) -> Pruning:
        return self._sparse.pruning(self._batches(), target.limits)

    def _batches(self, count: int | None = None) -> Batches:
        return self._data.scoring_batches(
            count or self._config.scoring_batches,
            batch_size=self._training.batch_size,
            seed=self._seed,
            device=self._context.torch_device,
        )

    def _flops(self, pruning: Pruning) -> int:
        profile = pruning.profile
        return self._preflight.graph_of(profile).cost(profile.widths).flops

    def _prune_and_judge(self, epoch: EpochReport) -> None:
        """The intermediate value: what the network would be worth, were it pruned now."""
        if self._halving is None or epoch.epoch not in self._halving.rungs:
            return
        try:
            pruning = self._pruning(self._targets[0])
        except UnreachableBudgetError:
            return  # gates may still close
        model = self._sparse.without(pruning)
        self._estimate_statistics(model)
        value = self._context.score(model, "validation", self._data)
        self._judge(epoch, value, self._flops(pruning))

    def _estimate_statistics(self, model: nn.Module) -> None:
        """Those of batch normalisations, anew, from a few minibatches."""
        context, batches = self._context, self._batches(STATISTICS_BATCHES)
        estimate_statistics(model, batches, context.task, context.torch_device)

    def _judge(self, epoch: EpochReport, value: float, flops: int) -> None:
        if self._halving is not None and epoch.epoch in self._halving.rungs:
            self._halving.require_worth(self._job.key, epoch.epoch, value, flops)

    def _train(
        self,
        stage: Stage,
        model: nn.Module,
        sparse: SparseNetwork | None = None,
        *,
        after_epoch: Any = None,
    ) -> TrainingReport:
        """One stage; a sparse network with what its method adds to the loss, without a teacher."""
        is_first = stage not in ("settling", "fine-tuning")
        config = self._training if is_first else self._training.for_fine_tuning()
        epochs = self._settle_epochs if stage == "settling" else config.epochs
        parts = () if is_first else self._config.gates.unfrozen
        if is_first and not config.epochs:
            return TrainingReport((), 0.0)
        trainer = trainer_for(
            model,
            self._data,
            task=self._context.task if sparse is not None else self._context.task_of_smaller,
            epochs=epochs,
            config=config,
            seed=self._seed if is_first else self._seed_after,
            device=self._context.torch_device,
            penalty=None if sparse is None else sparse.penalty,
            after_step=None if sparse is None else sparse.after_step,
        )
        sparsity = None if sparse is None else lambda: sparse.sparsity
        inputs = moved(self._preflight.example_input, self._context.torch_device)
        with frozen_but(model, parts, inputs):
            return self._staged.train(stage, trainer, sparsity=sparsity, after_epoch=after_epoch)

    def _fine_tuned(self, product: _Product) -> Outcome:
        model = self._sparse.without(product.pruning)
        model.load_state_dict(product.weights)
        tuned = self._train("fine-tuning", model)
        flops, training = self._flops(product.pruning), self._training
        before = self._staged.records[training.epochs - 1].images if training.epochs else 0
        before_flops = flops if self._prunes_first else self._preflight.base.flops
        scores = {name: values.tolist() for name, values in product.pruning.scores.items()}
        judged = {"criterion": self._job.proposal.criterion, "scores": scores}
        result = Finished(
            product.key,
            "fine-tuned",
            self._job.number,
            None,
            1.0,
            product.pruning.profile,
            seed=self._seed,
            images=before + product.images + tuned.images_seen,
            compute=float((before + product.images) * before_flops + tuned.images_seen * flops),
            details=product.details,
            record={"distill_from": teacher} if (teacher := training.teacher) else {},
            curve=self._staged.curve(self._epochs_after, training.epochs),
            files={SCORES_FILE: judged} if scores else {},
        )
        return store(result, fold(model), self._context, self._data)
