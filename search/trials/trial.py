"""One trial, start to end. Plain torch: no scheduler in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from pruning.networks.copies import moved
from pruning.sigmoid_batchnorm import fold
from search.config.methods import gated_parts, method
from search.data.data import Data
from search.storage.atomic_files import disk_full_as_error
from search.storage.layout import CANDIDATES_FILE, RUNGS_FOLDER, SCORES_FILE, TRAJECTORY_FILE
from search.system.accelerator_faults import is_out_of_memory
from search.system.float32 import exact_float32
from search.tasks.criterion_loss import criterion_loss
from search.training.batchnorm_statistics import estimate_statistics
from search.training.freezing import frozen_but
from search.training.own_loop import trainer_for
from search.training.trainer import EpochReport, TrainingReport
from search.trials.artifacts import Finished, store
from search.trials.candidates import candidate_rankings, epochs_of_candidates
from search.trials.early_stopping import Halving
from search.trials.from_scratch import train_from_scratch
from search.trials.iterative_training import (
    IterativeTraining,
    PruningSteps,
    settings_of_trial,
    too_slow,
)
from search.trials.job_context import (
    STATISTICS_BATCHES,
    JobContext,
    Report,
)
from search.trials.jobs import Ending, Job, Outcome, Stage, TrialJob
from search.trials.products import Product
from search.trials.scoring_batches import ScoringBatches
from search.trials.shape_judging import ShapeJudging
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.staged_training import StagedTraining
from search.trials.targets import Target, targets_of

_OF_MEMORY = " (lower --batch-size, or let fewer trials share a GPU: --gpus-per-trial)"

_AFTER_PRUNING: tuple[Stage, ...] = ("judging", "settling", "fine-tuning")


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
        self._job, self._context, self._data = job, context, data
        self._config, self._preflight = context.config, context.preflight
        self._training = self._config.training
        self._seed = self._config.seed_of(job.number, job.repeat)
        self._seed_after = self._config.fine_tuning_seed_of(job.number, job.repeat)
        self._is_iterative = job.proposal.schedule == "iterative"
        self._prunes_first = (
            method(job.proposal.criterion).prunes_untrained and not self._is_iterative
        )
        self._targets = targets_of(job.proposal, self._config, self._preflight)
        self._epochs_after = self._settle_epochs + self._training.fine_tune_epochs
        judging = epochs_of_candidates(self._config) if self._judges_candidates else 0
        after = judging + len(self._targets) * self._epochs_after
        num_steps = self._training.epochs + after
        # It counts the attempt, which a device that is broken ends with the first network.
        self._staged = StagedTraining(
            context.checkpoints(job.key),
            num_steps,
            report,
            self._config.resources.checkpoint_seconds,
        )
        self._sparse = SparseNetwork(
            context.first_network(self._seed),
            job.proposal,
            context.config,
            context.preflight,
            seed=self._seed,
            device=context.torch_device,
            loss=criterion_loss(context.task),
            is_trained=context.weights is not None,
            memory_format=data.memory_format,
        )
        is_judged = self._config.study.early_stopping and not job.repeat and bool(self._targets)
        folder = context.directory / RUNGS_FOLDER
        score = context.preflight.score
        self._halving = Halving(folder, self._training.epochs, score) if is_judged else None

    def run(self) -> tuple[Outcome, ...]:
        """Every stage that is still to be done, in its order."""
        with self._staged as staged:
            return (self._stored_sparse(),) if self._config.train_only else self._networks(staged)

    def _networks(self, staged: StagedTraining) -> tuple[Outcome, ...]:
        """Those that are pruned and fine-tuned, the trial's own first."""
        if "products" not in staged.notes:
            first = self._products()
            states = [product.to_state() for product in first]
            epochs = sum(self._epochs_after - product.epochs for product in first)
            if self._config.study.descend:
                epochs += self._training.fine_tune_epochs * (len(self._targets) - 1)
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
                model, product.pruning, target.limits, self._batches()
            )
        except UnreachableBudgetError:  # the floor was another granularity's
            return []
        details = {
            "score_before_pruning": before.validation_score,
            "score_after_pruning": self._context.score(smaller, "validation", self._data),
        }
        product = Product(
            self._job.product_key(target.suffix),
            pruning,
            details,
            smaller.state_dict(),
            before.images,
            before.compute,
            inherited_epochs=len(outcomes) * self._training.fine_tune_epochs,
        )
        return [product.to_state()]

    def _stored_sparse(self) -> Outcome:
        """The network with all its channels; σBN's scales as those of batch normalisations."""
        sparse = self._sparse
        trained = self._train("sparse training", sparse.model, self._base_flops, sparse)
        sparsity = sparse.sparsity
        result = Finished(
            self._job.sparse_key,
            "sparse",
            self._job.number,
            None,
            1.0,
            WidthProfile({}),
            seed=self._seed,
            images=trained.images_seen,
            compute=float(trained.images_seen * self._base_flops),
            details={} if sparsity is None else {"sparsity": sparsity},
            record={"tried": self._job.proposal.words},
            curve=self._staged.records,
            files=self._scores_file(sparse.importances(self._batches())),
        )
        return store(result, fold(sparse.model), self._context, self._data)

    def _products(self) -> list[Product]:
        """The networks that are to be fine-tuned, the trial's own first."""
        if self._prunes_first:
            return self._pruned_and_trained()
        staged, sparse = self._staged, self._sparse
        if "trained" not in staged.notes:
            if self._is_iterative:
                self._require_pace()
            details = self._sparse_trained()
            trained = {"trained": sparse.model.state_dict(), "details": details}
            images = {"images": staged.images, "images_of_training": staged.images}
            staged.advance({**trained, **images})
        sparse.model.load_state_dict(staged.notes["trained"])
        products = self._iteratively_pruned() if self._is_iterative else self._pruned()
        for done in ("trained", "details"):  # the products have what matters of them
            staged.notes.pop(done)
        return products

    def _pruned(self) -> list[Product]:
        """Pruned all at once, to each target; what else training has found is judged before.

        To its own target alone where the others descend from it.
        """
        own, *further = self._targets
        products = [self._product(own)]
        for target in () if self._config.study.descend else further:
            with suppress(UnreachableBudgetError):  # the floor was another granularity's
                products.append(self._product(target))
        if self._judges_candidates:
            ShapeJudging(
                self._sparse,
                self._context,
                self._data,
                self._staged,
                prepare=self._estimate_statistics,
                train=self._train_briefly,
            ).run(self._job.proposal, self._batches(), products[0].pruning.scores)
        return products

    def _iteratively_pruned(self) -> list[Product]:
        products = IterativeTraining(
            self._job, self._sparse, self._targets, self._context, self._data, staged=self._staged
        ).products()
        self._staged.notes.pop("reached")  # the products have what matters of it
        return products

    def _require_pace(self) -> None:
        proposal, limits = self._job.proposal, self._targets[0].limits
        rules = self._config.rules_of(proposal.criterion)
        steps = PruningSteps.of(
            settings_of_trial(proposal, self._config), self._training, self._data.count("train")
        )
        if why := too_slow((proposal.granularity,), limits, rules, self._preflight, steps):
            raise UnreachableBudgetError(f"iterative pruning cannot reach {limits}: {why}")

    def _pruned_and_trained(self) -> list[Product]:
        notes, target = self._staged.notes, self._targets[0]
        key = self._job.product_key(target.suffix)
        if "pruned first" not in notes:  # kept, because a GPU might not decide it again the same
            first = Product(key, self._pruning(target), {}, {})
            notes["pruned first"] = first.to_state()
        pruning = Product.from_state(notes["pruned first"]).pruning
        model = self._sparse.without(pruning)
        flops = self._flops(pruning)
        self._train(
            "training",
            model,
            flops,
            after_epoch=lambda epoch: self._judge(epoch, epoch.validation_score, flops),
        )
        images = self._staged.images
        return [
            Product(key, pruning, {}, model.state_dict(), images, compute=float(images * flops))
        ]

    def _sparse_trained(self) -> dict[str, float]:
        """Train sparsely; what was measured of it."""
        sparse = self._train(
            "sparse training",
            self._sparse.model,
            self._base_flops,
            self._sparse,
            after_epoch=self._prune_and_judge,
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
        return before

    def _product(self, target: Target) -> Product:
        pruning = self._pruning(target)
        model = self._sparse.without(pruning)
        after = self._context.score(model, "validation", self._data)
        key = self._job.product_key(target.suffix)
        details = {**self._staged.notes["details"], "score_after_pruning": after}
        weights = model.state_dict()
        if self._settle_epochs:
            weights = self._sparse.settled(pruning).state_dict()
        images, is_settled = self._staged.notes["images_of_training"], not self._settle_epochs
        compute = float(images * self._base_flops)
        return Product(key, pruning, details, weights, images, compute, is_settled=is_settled)

    @property
    def _judges_candidates(self) -> bool:
        """Whether its training is asked for more than the networks that are fine-tuned.

        What goes step by step has judged its shapes on the way.
        """
        is_pruned_at_once = not (self._is_iterative or self._prunes_first)
        has_any = bool(candidate_rankings(self._config))
        return is_pruned_at_once and not self._job.repeat and has_any

    @property
    def _settle_epochs(self) -> int:
        """Epochs of each network with its gates at 0 or 1."""
        is_gated = gated_parts(self._job.proposal.criterion, self._job.proposal.granularity)
        return self._config.gates.settle_epochs if is_gated else 0

    def _settled(self, product: Product) -> Product:
        """Trained with its gates at 0 or 1, then without them (Haider and Taj, §5.4)."""
        gated = self._sparse.settled(product.pruning)
        gated.load_state_dict(product.weights)
        trained = self._train("settling", gated, self._base_flops)
        model = self._sparse.without(product.pruning, gated)
        return replace(
            product,
            weights=model.state_dict(),
            is_settled=True,
            images=product.images + trained.images_seen,
            compute=product.compute + trained.images_seen * float(self._base_flops),
        )

    def _pruning(self, target: Target) -> Pruning:
        return self._sparse.pruning(self._batches(), target.limits)

    def _batches(self, count: int | None = None) -> ScoringBatches:
        device = self._context.torch_device
        return ScoringBatches(self._data, self._config, self._seed, device, count)

    @property
    def _base_flops(self) -> int:
        return self._preflight.base.flops

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
        flops: int,
        sparse: SparseNetwork | None = None,
        *,
        epochs_used: int = 0,
        after_epoch: Any = None,
    ) -> TrainingReport:
        """One stage; a sparse network with what its method adds to the loss, without a teacher.

        flops: of the network.  epochs_used: of those of fine-tuning.
        """
        is_first, training = stage not in _AFTER_PRUNING, self._training
        parts = () if is_first else self._config.gates.unfrozen
        if not (training.epochs if is_first else training.fine_tune_epochs - epochs_used):
            return TrainingReport((), 0.0)
        config = training if is_first else training.for_fine_tuning(epochs_used)
        trainer = trainer_for(
            model,
            self._data,
            task=self._context.task if sparse is not None else self._context.task_of_smaller,
            epochs=self._settle_epochs if stage == "settling" else config.epochs,
            config=config,
            seed=self._seed if is_first else self._seed_after,
            device=self._context.torch_device,
            penalty=None if sparse is None else sparse.penalty,
            after_step=None if sparse is None else sparse.after_step,
            ranks=self._context.ranks,
        )
        sparsity = None if sparse is None else lambda: sparse.sparsity
        inputs = moved(self._preflight.example_input, self._context.torch_device)
        with frozen_but(model, parts, inputs):
            return self._staged.train(
                stage,
                trainer,
                lambda: trainer.images_seen * flops,
                sparsity=sparsity,
                after_epoch=after_epoch,
            )

    def _train_briefly(self, model: nn.Module, flops: int) -> None:
        """A candidate, as many of the epochs of fine-tuning as judge it."""
        epochs = min(self._config.study.candidate_epochs, self._training.fine_tune_epochs)
        self._train("judging", model, flops, epochs_used=self._training.fine_tune_epochs - epochs)

    def _fine_tuned(self, product: Product) -> tuple[Outcome, nn.Module]:
        model = self._sparse.without(product.pruning)
        model.load_state_dict(product.weights)
        flops, training = self._flops(product.pruning), self._training
        tuned = self._train("fine-tuning", model, flops, epochs_used=product.epochs)
        own_epochs = self._epochs_after - product.epochs + product.inherited_epochs
        epochs_before = training.epochs + product.epochs
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
            seed=self._seed,
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
        optional = {"target": names[product.key], "distill_from": self._training.teacher}
        tried: dict[str, object] = {"tried": self._job.proposal.words}
        tried |= {name: value for name, value in optional.items() if value}
        return tried | self._staged.record

    def _scores_file(self, scores: Mapping[str, Tensor]) -> dict[str, Any]:
        """What is stored of the channels that were judged, by the name of its file."""
        if not scores:
            return {}
        lists = {name: values.tolist() for name, values in scores.items()}
        return {SCORES_FILE: {"criterion": self._job.proposal.criterion, "scores": lists}}
