"""From a trial's training to the networks that are pruned from it, still to be fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pruning.errors import UnreachableBudgetError
from search.config.methods import method
from search.storage.layout import RUNGS_FOLDER
from search.training.trainer import EpochReport
from search.trials.candidates import candidate_rankings
from search.trials.early_stopping import Halving
from search.trials.iterative_training import (
    IterativeTraining,
    PruningSteps,
    settings_of_trial,
    too_slow,
)
from search.trials.job_context import JobContext
from search.trials.jobs import TrialJob
from search.trials.products import Product
from search.trials.shape_judging import ShapeJudging
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.targets import Target
from search.trials.trial_training import TrialTraining, settle_epochs


class PrunedProducts:
    """The products of one trial.

    Trained sparsely and pruned at once, or step by step meanwhile, or pruned first and trained.
    targets: of the products, the trial's own first.
    """

    def __init__(
        self, training: TrialTraining, sparse: SparseNetwork, targets: Sequence[Target]
    ) -> None:
        job, context = training.job, training.context
        self._training, self._sparse, self._targets = training, sparse, targets
        self._job, self._context, self._config = job, context, context.config
        self._staged = training.staged
        self._settles = settle_epochs(job, context) > 0
        is_judged = self._config.study.early_stopping and not job.repeat and bool(targets)
        rungs, epochs = context.directory / RUNGS_FOLDER, self._config.training.epochs
        self._halving = Halving(rungs, epochs, context.preflight.score) if is_judged else None

    def all(self) -> list[Product]:
        """The networks that are to be fine-tuned, the trial's own first.

        Raises StoppedEarlyError where other trials have left this one behind, and
        UnreachableBudgetError.
        """
        if prunes_first(self._job):
            return self._pruned_and_trained()
        is_iterative = self._job.proposal.schedule == "iterative"
        staged, sparse = self._staged, self._sparse
        if "trained" not in staged.notes:
            if is_iterative:
                self._require_pace()
            details = self._sparse_trained()
            trained = {"trained": sparse.model.state_dict(), "details": details}
            images = {"images": staged.images, "images_of_training": staged.images}
            staged.advance({**trained, **images})
        sparse.model.load_state_dict(staged.notes["trained"])
        products = self._iteratively_pruned() if is_iterative else self._pruned()
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
        if judges_candidates(self._job, self._context):
            training = self._training
            ShapeJudging(
                self._sparse,
                self._context,
                training.data,
                self._staged,
                prepare=training.estimate_statistics,
                train=training.train_briefly,
            ).run(self._job.proposal, training.batches(), products[0].pruning.scores)
        return products

    def _iteratively_pruned(self) -> list[Product]:
        products = IterativeTraining(
            self._job,
            self._sparse,
            self._targets,
            self._context,
            self._training.data,
            staged=self._staged,
        ).products()
        self._staged.notes.pop("reached")  # the products have what matters of it
        return products

    def _require_pace(self) -> None:
        proposal, limits = self._job.proposal, self._targets[0].limits
        rules = self._config.rules_of(proposal.criterion)
        num_train = self._training.data.count("train")
        settings = settings_of_trial(proposal, self._config)
        steps = PruningSteps.of(settings, self._config.training, num_train)
        granularities = (proposal.granularity,)
        if why := too_slow(granularities, limits, rules, self._context.preflight, steps):
            raise UnreachableBudgetError(f"iterative pruning cannot reach {limits}: {why}")

    def _pruned_and_trained(self) -> list[Product]:
        notes, target = self._staged.notes, self._targets[0]
        key = self._job.product_key(target.suffix)
        if "pruned first" not in notes:  # kept, because a GPU might not decide it again the same
            first = Product(key, self._pruning(target), {}, {})
            notes["pruned first"] = first.to_state()
        pruning = Product.from_state(notes["pruned first"]).pruning
        model, flops = self._sparse.without(pruning), self._training.flops(pruning)
        self._training.train(
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
        training, model = self._training, self._sparse.model
        trained = training.train(
            "sparse training",
            model,
            training.base_flops,
            self._sparse,
            after_epoch=self._prune_and_judge,
        )
        if not trained.epochs and method(self._job.proposal.criterion).uses_sigmoid:
            training.estimate_statistics(model)  # which the offsets have left behind
        before = {
            "score_before_pruning": trained.validation_score
            if trained.epochs
            else training.validation_score(model)
        }
        if (sparsity := self._sparse.sparsity) is not None:
            before["sparsity"] = sparsity
        return before

    def _product(self, target: Target) -> Product:
        pruning, training = self._pruning(target), self._training
        model = self._sparse.without(pruning)
        after = training.validation_score(model)
        key = self._job.product_key(target.suffix)
        details = {**self._staged.notes["details"], "score_after_pruning": after}
        weights = model.state_dict()
        if self._settles:
            weights = self._sparse.settled(pruning).state_dict()
        images = self._staged.notes["images_of_training"]
        compute = float(images * training.base_flops)
        return Product(
            key, pruning, details, weights, images, compute, is_settled=not self._settles
        )

    def _pruning(self, target: Target) -> Pruning:
        return self._sparse.pruning(self._training.batches(), target.limits)

    def _prune_and_judge(self, epoch: EpochReport) -> None:
        """The intermediate value: what the network would be worth, were it pruned now."""
        if self._halving is None or epoch.epoch not in self._halving.rungs:
            return
        try:
            pruning = self._pruning(self._targets[0])
        except UnreachableBudgetError:
            return  # gates may still close
        model, training = self._sparse.without(pruning), self._training
        training.estimate_statistics(model)
        self._judge(epoch, training.validation_score(model), training.flops(pruning))

    def _judge(self, epoch: EpochReport, value: float, flops: int) -> None:
        if self._halving is not None and epoch.epoch in self._halving.rungs:
            self._halving.require_worth(self._job.key, epoch.epoch, value, flops)


def prunes_first(job: TrialJob) -> bool:
    """Whether the network is pruned at initialisation, so that the smaller one is trained."""
    proposal = job.proposal
    return method(proposal.criterion).prunes_untrained and proposal.schedule != "iterative"


def judges_candidates(job: TrialJob, context: JobContext) -> bool:
    """Whether a trial's training is asked for more than the networks that are fine-tuned.

    What goes step by step has judged its shapes on the way.
    """
    is_pruned_at_once = job.proposal.schedule != "iterative" and not prunes_first(job)
    return is_pruned_at_once and not job.repeat and bool(candidate_rankings(context.config))
