"""One trial, start to end. Plain torch: no scheduler in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from copycat.width_profile import WidthProfile
from pruning.errors import (
    DiskFullError,
    EspalierError,
    StoppedEarlyError,
    TrainingDivergedError,
    UnreachableBudgetError,
)
from pruning.sigmoid_batchnorm import fold
from search.data.data import Data
from search.storage.atomic_files import disk_full_as_error
from search.storage.layout import CANDIDATES_FILE, SCORES_FILE, TRAJECTORY_FILE
from search.system.accelerator_faults import is_out_of_memory
from search.system.float32 import exact_float32
from search.tasks.criterion_loss import criterion_loss
from search.trials.artifacts import Finished, store
from search.trials.candidates import epochs_of_candidates
from search.trials.from_scratch import train_from_scratch
from search.trials.job_context import JobContext, Report
from search.trials.jobs import Ending, Job, Outcome, TrialJob
from search.trials.products import Product
from search.trials.pruned_products import PrunedProducts, judges_candidates
from search.trials.sparse_training import SparseNetwork
from search.trials.staged_training import StagedTraining
from search.trials.targets import targets_of
from search.trials.trial_training import TrialTraining, settle_epochs

_OF_MEMORY = " (lower --batch-size, or let fewer trials share a GPU: --gpus-per-trial)"


def perform(job: Job, context: JobContext, data: Data, report: Report) -> tuple[Outcome, ...]:
    """Do a job, or go on with it, and store what comes of it; `ending_of` reads what it raises.

    Only one process at a time performs a job of one key.
    """
    with (
        exact_float32(),
        disk_full_as_error(context.directory),
        context.checkpoints(job.key).locked(),
    ):
        if isinstance(job, TrialJob):
            return run_trial(job, context, data, report)
        return (train_from_scratch(job, context, data, report),)


def ending_of(error: Exception) -> Ending:
    """What an error of `perform` means for its job; DiskFullError, for the search, is raised."""
    if isinstance(error, DiskFullError):
        raise error
    known = isinstance(error, EspalierError)
    reason = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
    if is_out_of_memory(error):
        reason += _OF_MEMORY
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
    initialisation does so first, and the smaller network has all the epochs. By the schedule
    iterative, channels go while the network trains, see `IterativeTraining`; what is left of the
    epochs of fine-tuning fine-tunes.
    With `train_only` the network is stored after sparse training, with what the method then finds
    of its channels.
    Raises StoppedEarlyError where other trials have left this one behind, UnreachableBudgetError
    before any training where the pace of iterative pruning is too slow for the target.
    """
    return _Trial(job, context, data, report).run()


class _Trial:
    def __init__(self, job: TrialJob, context: JobContext, data: Data, report: Report) -> None:
        self._job, self._context, self._data, self._config = job, context, data, context.config
        self._targets = targets_of(job.proposal, self._config, context.preflight)
        self._epochs_after = settle_epochs(job, context) + self._config.training.fine_tune_epochs
        judging = epochs_of_candidates(self._config) if judges_candidates(job, context) else 0
        after = judging + len(self._targets) * self._epochs_after
        # It counts the attempt, which a device that is broken ends with the first network.
        self._staged = StagedTraining(
            context.checkpoints(job.key),
            self._config.training.epochs + after,
            report,
            self._config.resources.checkpoint_seconds,
        )
        self._training = TrialTraining(job, context, data, self._staged)
        self._sparse = SparseNetwork(
            context.first_network(self._training.seed),
            job.proposal,
            self._config,
            context.preflight,
            seed=self._training.seed,
            device=context.torch_device,
            loss=criterion_loss(context.task),
            is_trained=context.weights is not None,
            memory_format=data.memory_format,
        )

    def run(self) -> tuple[Outcome, ...]:
        """Every stage that is still to be done, in its order."""
        with self._staged as staged:
            return (self._stored_sparse(),) if self._config.train_only else self._networks(staged)

    def _networks(self, staged: StagedTraining) -> tuple[Outcome, ...]:
        """Those that are pruned and fine-tuned, the trial's own first."""
        if "products" not in staged.notes:
            first = PrunedProducts(self._training, self._sparse, self._targets).all()
            states = [product.to_state() for product in first]
            epochs = sum(self._epochs_after - product.epochs for product in first)
            if self._config.study.descend:
                epochs += self._config.training.fine_tune_epochs * (len(self._targets) - 1)
            staged.advance({"products": states, "images": staged.images}, epochs)
        outcomes = [Outcome.from_mapping(stored) for stored in staged.notes.get("outcomes", [])]
        products: list[dict[str, Any]] = staged.notes["products"]
        while len(outcomes) < len(products):
            state = products[len(outcomes)]
            if not state["is_settled"]:
                state.update(self._settled(Product.from_state(state)).to_state())
                staged.advance({"images": staged.images})
            product = Product.from_state(state)
            outcome, model = self._fine_tuned(product)
            outcomes.append(outcome)
            state["weights"] = {}  # those that training began with are of no more use
            products += self._descendant(product, model, outcomes)
            done = [outcome.to_mapping() for outcome in outcomes]
            staged.advance({"outcomes": done, "products": products, "images": staged.images})
        return tuple(outcomes)

    def _descendant(
        self, product: Product, model: nn.Module, outcomes: Sequence[Outcome]
    ) -> list[dict[str, Any]]:
        """The state of the product after this one, pruned from what it has become; or none.

        outcomes: so far, that of this product the last.
        """
        if not self._config.study.descend or len(outcomes) == len(self._targets):
            return []
        target, before = self._targets[len(outcomes)], outcomes[-1]
        model = model.to(self._context.torch_device)  # storing it has moved it
        try:
            pruning, smaller = self._sparse.pruned_further(
                model, product.pruning, target.limits, self._training.batches()
            )
        except UnreachableBudgetError:  # the floor was another granularity's
            return []
        details = {
            "score_before_pruning": before.validation_score,
            "score_after_pruning": self._training.validation_score(smaller),
        }
        product = Product(
            self._job.product_key(target.suffix),
            pruning,
            details,
            smaller.state_dict(),
            before.images,
            before.compute,
            inherited_epochs=len(outcomes) * self._config.training.fine_tune_epochs,
        )
        return [product.to_state()]

    def _stored_sparse(self) -> Outcome:
        """The network with all its channels; σBN's scales as those of batch normalisations."""
        sparse, training = self._sparse, self._training
        trained = training.train("sparse training", sparse.model, training.base_flops, sparse)
        sparsity = sparse.sparsity
        result = Finished(
            self._job.sparse_key,
            "sparse",
            self._job.number,
            None,
            1.0,
            WidthProfile({}),
            seed=training.seed,
            images=trained.images_seen,
            compute=float(trained.images_seen * training.base_flops),
            details={} if sparsity is None else {"sparsity": sparsity},
            record={"tried": self._job.proposal.words},
            curve=self._staged.records,
            files=self._scores_file(sparse.importances(training.batches())),
        )
        return store(result, fold(sparse.model), self._context, self._data)

    def _settled(self, product: Product) -> Product:
        """Trained with its gates at 0 or 1, then without them (Haider and Taj, §5.4)."""
        gated = self._sparse.settled(product.pruning)
        gated.load_state_dict(product.weights)
        flops = self._training.base_flops
        trained = self._training.train("settling", gated, flops)
        model = self._sparse.without(product.pruning, gated)
        return replace(
            product,
            weights=model.state_dict(),
            is_settled=True,
            images=product.images + trained.images_seen,
            compute=product.compute + trained.images_seen * float(flops),
        )

    def _fine_tuned(self, product: Product) -> tuple[Outcome, nn.Module]:
        model = self._sparse.without(product.pruning)
        model.load_state_dict(product.weights)
        flops = self._training.flops(product.pruning)
        tuned = self._training.train("fine-tuning", model, flops, epochs_used=product.epochs)
        own_epochs = self._epochs_after - product.epochs + product.inherited_epochs
        epochs_before = self._config.training.epochs + product.epochs
        files = self._scores_file(product.pruning.scores)
        if product.trajectory:
            files[TRAJECTORY_FILE] = product.trajectory
        if product.key == self._job.key and self._staged.notes.get("candidates"):
            files[CANDIDATES_FILE] = self._staged.notes["candidates"]
        result = Finished(
            product.key,
            "fine-tuned",
            self._job.number,
            None,
            1.0,
            product.pruning.profile,
            seed=self._training.seed,
            images=product.images + tuned.images_seen,
            compute=product.compute + tuned.images_seen * flops,
            details=product.details,
            record=self._record(product),
            curve=self._staged.curve(own_epochs, epochs_before),
            files=files,
        )
        return store(result, fold(model), self._context, self._data), model

    def _record(self, product: Product) -> dict[str, object]:
        """What the provenance of a pruned network says of its trial."""
        names = {self._job.product_key(target.suffix): target.name for target in self._targets}
        optional = {"target": names[product.key], "distill_from": self._config.training.teacher}
        tried: dict[str, object] = {"tried": self._job.proposal.words}
        tried |= {name: value for name, value in optional.items() if value}
        return tried | self._staged.record

    def _scores_file(self, scores: Mapping[str, Tensor]) -> dict[str, Any]:
        """What is stored of the channels that were judged, by the name of its file."""
        if not scores:
            return {}
        lists = {name: values.tolist() for name, values in scores.items()}
        return {SCORES_FILE: {"criterion": self._job.proposal.criterion, "scores": lists}}
