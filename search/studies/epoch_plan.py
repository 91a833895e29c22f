"""How many epochs, and training images, the jobs of a study take."""

from __future__ import annotations

from dataclasses import dataclass

from search.data.data import samples_trained_on
from search.scheduling.from_scratch_jobs import num_members
from search.trials.candidates import epochs_of_candidates
from search.trials.from_scratch import member_epochs
from search.trials.job_context import JobContext
from search.trials.jobs import BASE, FromScratchJob, Job
from search.trials.targets import product_suffixes


@dataclass(frozen=True)
class EpochPlan:
    """Counts of epochs, and of the training images that they look at; num_train: images."""

    context: JobContext
    num_train: int

    @property
    def images_per_epoch(self) -> int:
        """Training images that an epoch looks at."""
        return samples_trained_on(self.num_train, self.context.config.training.batch_size)

    @property
    def epochs_per_trial(self) -> int:
        """Epochs of a trial with all the networks that come of it."""
        config = self.context.config
        after = config.gates.settle_epochs + config.training.fine_tune_epochs
        judging = epochs_of_candidates(config)
        return config.training.epochs + judging + len(product_suffixes(config)) * after

    @property
    def epochs_of_base(self) -> int:
        """Epochs of the base network; 0 where its weights are given."""
        return member_epochs(BASE, self.context)

    @property
    def epochs_interpolated(self) -> int:
        """Epochs of the shapes between a found and a uniform one, and of their repetitions."""
        config = self.context.config
        num_repeated = (config.seeds - 1) * min(len(config.ladder), config.num_tempered)
        return (config.num_tempered + num_repeated) * config.training.num_scratch_epochs

    @property
    def epochs_after_trials(self) -> int:
        """Epochs of everything that comes after the trials, generously."""
        config = self.context.config
        num_compared = config.num_trials
        if not config.compares_all_trials:
            num_compared = min(config.profiles + len(config.ladder), num_compared)
        repeats = (config.seeds - 1) * num_compared * self.epochs_per_trial
        if config.train_only:
            return repeats
        families = num_members(config) * config.training.num_scratch_epochs
        return families + self.epochs_interpolated + repeats

    def epochs_of(self, job: Job) -> int:
        """Epochs of a job from its beginning to its end."""
        if isinstance(job, FromScratchJob):
            return member_epochs(job, self.context)
        return self.epochs_per_trial

    def images_of(self, job: Job) -> int:
        """Training images of a job from its beginning to its end."""
        return self.epochs_of(job) * self.images_per_epoch
