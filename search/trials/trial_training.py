"""What one trial trains its networks with, stage by stage, and what it measures of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pruning.networks.copies import moved
from search.config.methods import gated_parts
from search.data.data import Data
from search.training.batchnorm_statistics import estimate_statistics
from search.training.freezing import frozen_but
from search.training.own_loop import trainer_for
from search.training.trainer import EpochReport, TrainingReport
from search.trials.job_context import STATISTICS_BATCHES, JobContext
from search.trials.jobs import Stage, TrialJob
from search.trials.scoring_batches import ScoringBatches
from search.trials.sparse_training import Pruning, SparseNetwork
from search.trials.staged_training import StagedTraining

_AFTER_PRUNING: tuple[Stage, ...] = ("judging", "settling", "fine-tuning")


class TrialTraining:
    """The training of a trial.

    staged: keeps what is done.  seed: of the first weights and of training before pruning.
    """

    def __init__(
        self, job: TrialJob, context: JobContext, data: Data, staged: StagedTraining
    ) -> None:
        self.job, self.context, self.data, self.staged = job, context, data, staged
        self.settings = context.config.training
        self.seed = context.config.seed_of(job.number, job.repeat)
        self._seed_after = context.config.fine_tuning_seed_of(job.number, job.repeat)

    @property
    def base_flops(self) -> int:
        """Of the base network."""
        return self.context.preflight.base.flops

    def flops(self, pruning: Pruning) -> int:
        """Of the network that is left."""
        profile = pruning.profile
        return self.context.preflight.graph_of(profile).cost(profile.widths).flops

    def validation_score(self, model: nn.Module) -> float:
        """Of a network, which is moved to the device."""
        return self.context.score(model, "validation", self.data)

    def batches(self, count: int | None = None) -> ScoringBatches:
        """Minibatches that criteria may look at: as many as the settings say, or `count`."""
        context = self.context
        return ScoringBatches(self.data, context.config, self.seed, context.torch_device, count)

    def estimate_statistics(self, model: nn.Module) -> None:
        """Those of batch normalisations, anew, from a few minibatches."""
        context, batches = self.context, self.batches(STATISTICS_BATCHES)
        estimate_statistics(model, batches, context.task, context.torch_device)

    def train(
        self,
        stage: Stage,
        model: nn.Module,
        flops: int,
        sparse: SparseNetwork | None = None,
        *,
        epochs_used: int = 0,
        after_epoch: Callable[[EpochReport], None] | None = None,
    ) -> TrainingReport:
        """One stage; a sparse network with what its method adds to the loss, without a teacher.

        flops: of the network.  epochs_used: of those of fine-tuning.
        """
        context, training = self.context, self.settings
        is_first = stage not in _AFTER_PRUNING
        parts = () if is_first else context.config.gates.unfrozen
        if not (training.epochs if is_first else training.fine_tune_epochs - epochs_used):
            return TrainingReport((), 0.0)
        config = training if is_first else training.for_fine_tuning(epochs_used)
        trainer = trainer_for(
            model,
            self.data,
            task=context.task if sparse is not None else context.task_of_smaller,
            epochs=settle_epochs(self.job, context) if stage == "settling" else config.epochs,
            config=config,
            seed=self.seed if is_first else self._seed_after,
            device=context.torch_device,
            penalty=None if sparse is None else sparse.penalty,
            after_step=None if sparse is None else sparse.after_step,
            ranks=context.ranks,
        )
        sparsity = None if sparse is None else lambda: sparse.sparsity
        inputs = moved(context.preflight.example_input, context.torch_device)
        with frozen_but(model, parts, inputs):
            return self.staged.train(
                stage,
                trainer,
                lambda: trainer.images_seen * flops,
                sparsity=sparsity,
                after_epoch=after_epoch,
            )

    def train_briefly(self, model: nn.Module, flops: int) -> None:
        """A candidate, as many of the epochs of fine-tuning as judge it."""
        all_epochs = self.settings.fine_tune_epochs
        epochs = min(self.context.config.study.candidate_epochs, all_epochs)
        self.train("judging", model, flops, epochs_used=all_epochs - epochs)


def settle_epochs(job: TrialJob, context: JobContext) -> int:
    """Epochs of each network with its gates at 0 or 1."""
    is_gated = gated_parts(job.proposal.criterion, job.proposal.granularity)
    return context.config.gates.settle_epochs if is_gated else 0
