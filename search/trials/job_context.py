"""What every job of a search or study shares, wherever it is performed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from copycat.recipes import Recipe, recorded
from search.config.search_config import SearchConfig
from search.data.data import Data, Part
from search.models.weights import TrainedWeights
from search.storage.layout import ARCHITECTURES_FOLDER, BASE_ARCHITECTURE, JOBS_FOLDER
from search.tasks import registry as tasks
from search.tasks.task import Task
from search.training.checkpoints import Checkpoints
from search.training.data_parallel import Ranks
from search.training.distillation import distilled
from search.trials.jobs import Ending, EpochRecord, Job, Observer, Outcome
from search.trials.preflight import Preflight

STATISTICS_BATCHES = 8
"""Minibatches from which batch-norm statistics are estimated again where a network was changed."""

Report = Callable[[Sequence[EpochRecord]], None]
"""Passes on epochs; the first call after a restart has all those that were passed on before.

An empty call says that one of them was gone through again."""


@dataclass(frozen=True)
class JobContext:
    """Everything a job needs besides itself and the data; it can be sent anywhere.

    start: the folder that relative paths of the settings are meant from; empty for the current one.
    own_task: a task that was given in Python; the settings cannot name it.
    weights: that trials start from; None for those that are drawn for each.
    ranks: the processes that train together; None for one alone.
    """

    config: SearchConfig
    preflight: Preflight
    device: str
    start: str = ""
    own_task: Task | None = None
    weights: TrainedWeights | None = None
    ranks: Ranks | None = None

    @property
    def torch_device(self) -> torch.device:
        """The device to train on."""
        return torch.device(self.device)

    @property
    def directory(self) -> Path:
        """The folder of the search."""
        return Path(self.start) / self.config.directory

    @property
    def teacher(self) -> str:
        """The folder of the network that is to be imitated; empty for none."""
        training = self.config.training
        if training.distill_from:
            return os.path.join(self.start, training.distill_from)
        base = self.directory / ARCHITECTURES_FOLDER / BASE_ARCHITECTURE
        return str(base) if training.distill else ""

    @property
    def imitates_base(self) -> bool:
        """Whether networks learn from the trained base network, which has to be there before."""
        own = self.directory / ARCHITECTURES_FOLDER / BASE_ARCHITECTURE
        return bool(self.teacher) and Path(self.teacher) == own

    @property
    def is_base_trained(self) -> bool:
        """Whether the given weights are those of the base network as it is, head and all."""
        return self.weights is not None and not self.weights.new_head

    def first_network(self, seed: int) -> nn.Module:
        """The base network with the given weights, or with those drawn from `seed`."""
        model, _ = fresh_base(self.preflight, seed)
        return model if self.weights is None else self.weights.fill(model)

    def sent(self) -> JobContext:
        """The same for processes that may have another current folder."""
        return replace(self, start=os.path.abspath(self.start))

    def checkpoints(self, key: str) -> Checkpoints:
        """Those of the job of this key."""
        return Checkpoints(self.directory / JOBS_FOLDER / key)

    @property
    def task(self) -> Task:
        """What is learned."""
        return self.own_task or tasks.resolve(self.config.task)

    @property
    def task_of_smaller(self) -> Task:
        """What a smaller network learns: the task, and from the teacher, where there is one."""
        preflight = self.preflight
        return distilled(
            self.task,
            replace(self.config.training, distill_from=self.teacher),
            self.torch_device,
            input_shape=preflight.input_shape,
            classes=preflight.classes,
            trust=preflight.builder.modules,
        )

    def score(self, model: nn.Module, part: Part, data: Data) -> float:
        """Of `model`, which is moved to the device, on a part of the data; see Task.measured."""
        device = self.torch_device
        return self.task.measured(model.to(device), data.loader(part, device=device))

    def test_score(self, model: nn.Module, data: Data) -> tuple[float, Tensor | None]:
        """Of `model` on the test split, and each sample's terms; see Task.measured_by_sample."""
        device = self.torch_device
        return self.task.measured_by_sample(model.to(device), data.loader("test", device=device))


def fresh_base(preflight: Preflight, seed: int) -> tuple[nn.Module, Recipe]:
    """The base network with weights drawn from `seed`, and how its constructor drew them.

    The global generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recorded(preflight.builder)


class CheckpointCleaner(Observer):
    """The last observer of all: it removes the states of jobs that the others know to be over."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        self._context.checkpoints(job.key).clear()

    def ended(self, job: Job, ending: Ending) -> None:  # noqa: ARG002
        self._context.checkpoints(job.key).clear()
