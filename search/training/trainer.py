"""Training and measuring one network, deterministic on a CPU.

The validation part is measured after every epoch, in float32; the test part is never looked at.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from pruning.cost import in_mode
from pruning.errors import DataError, ModelError, TrainingDivergedError
from pruning.networks.nested_tensors import num_samples
from search.config.settings import require_defaults
from search.config.training_config import TrainingConfig
from search.data.data import Batch, Data, samples_trained_on, steps_per_epoch
from search.system.stopwatch import Stopwatch
from search.tasks.task import Task, has_own
from search.training.augmentation import target_mixing, varied
from search.training.averaging import AveragedWeights
from search.training.data_parallel import ALONE, Ranks
from search.training.distillation import Distillation, check_imitation
from search.training.graphed_step import CudaCapture, GraphedStep, Step, tensors_of
from search.training.optimizers import Stepper
from search.training.patch_convolutions import patching
from search.training.precision import training_precision
from search.training.schedules import learning_rates

Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class EpochReport:
    """One epoch: `epoch` counts from 1, losses are means over the images trained on.

    `train_loss` is the task's loss alone, `penalty` what was added to it; `validation_score` is
    the task's score; `learning_rate` that of the last step; `images_seen` counts from the start of
    training. `seconds` are those of its phases, see search.system.stopwatch; they do not count when
    reports are compared.
    """

    epoch: int
    train_loss: float
    penalty: float
    validation_score: float
    learning_rate: float
    images_seen: int
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TrainingReport:
    """All epochs in order; `seconds` of wall time do not count when reports are compared."""

    epochs: tuple[EpochReport, ...]
    seconds: float = field(compare=False)

    @property
    def validation_score(self) -> float:
        """After the last epoch (no epoch is picked)."""
        return self.epochs[-1].validation_score

    @property
    def images_seen(self) -> int:
        """Training images processed, repetitions counted; 0 of no epochs."""
        return self.epochs[-1].images_seen if self.epochs else 0


_OF_TRAINER = (
    *("clip_norm", "ema_decay", "label_smoothing", "mixup", "cutmix"),
    *("crop", "crop_area", "augment", "augment_magnitude", "distill", "distill_from"),
)
"""Settings that a training loop of a task's own is not given the effect of."""


def check_recipe(config: TrainingConfig, data: Data, task: Task) -> None:
    """Raise ConfigError for what `config` asks for and these data or this task do not allow."""
    if has_own(task, "train"):
        why = f"in {type(task).__name__}.train, a training loop of its own"
        require_defaults(config, _OF_TRAINER, why)
    varied(data, config)
    target_mixing(config, task, len(data.classes))
    if config.teacher:
        check_imitation(task)


class TrainingArguments(TypedDict):
    """How a network is trained, whoever's the loop is.

    penalty: of the network, a scalar that is added to the loss of every step.
    after_step: called with the network after every step.
    ranks: the processes that take each step together; by default this one alone.
    """

    task: Task
    epochs: int
    config: TrainingConfig
    seed: int
    device: torch.device
    penalty: NotRequired[Penalty | None]
    after_step: NotRequired[Callable[[nn.Module], None] | None]
    ranks: NotRequired[Ranks | None]


class EpochLoop(ABC):
    """One training of `model`, in place and on the device, that is stored between its epochs.

    reports: of the epochs that have run.  watch: what their seconds went to; what others do between
    two epochs, under phases of it, counts for the second.
    """

    def __init__(
        self, model: nn.Module, data: Data, **arguments: Unpack[TrainingArguments]
    ) -> None:
        self._device = arguments["device"]
        self._model, self._data = model.to(self._device), data
        self._task, self._config = arguments["task"], arguments["config"]
        self._epochs, self._seed = arguments["epochs"], arguments["seed"]
        self._penalty, self._after_step = arguments.get("penalty"), arguments.get("after_step")
        self.watch = Stopwatch()
        self.reports: tuple[EpochReport, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether all epochs have run."""
        return len(self.reports) >= self._epochs

    @property
    def images_seen(self) -> int:
        """Training images so far, repetitions counted."""
        return self.reports[-1].images_seen if self.reports else 0

    @property
    def step_note(self) -> str:
        """Why steps run one kernel after the other on a GPU; empty where that is not so."""
        return ""

    @abstractmethod
    def run(self, stage: str, on_epoch: Callable[[EpochReport], None]) -> None:
        """Train for all epochs that are left, and pass on each as it ends.

        Raises TrainingDivergedError when a loss or score is not finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """What continuing needs: tensors, numbers and strings only (torch.load weights_only)."""
        reports = [asdict(report) for report in self.reports]
        return {"model": self._model.state_dict(), "reports": reports}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a loop made with the same arguments."""
        self._model.load_state_dict(state["model"])
        self.reports = tuple(EpochReport(**report) for report in state["reports"])


class Trainer(EpochLoop):
    """One training run by the training step of the task.

    The penalty is added to the loss. The order of samples, their augmentation and the model's own
    random numbers (dropout) depend on the seed and the epoch alone, and torch's global generators
    are left as they were.

    Where a running average of the weights is kept, `model` holds it between epochs: the average
    is what is measured, pruned and stored.
    Raises ConfigError as `check_recipe` does.
    """

    def __init__(
        self, model: nn.Module, data: Data, **arguments: Unpack[TrainingArguments]
    ) -> None:
        super().__init__(model, data, **arguments)
        self._ranks = arguments.pop("ranks", None) or ALONE
        self._arguments = arguments
        config, device, num_train = self._config, self._device, data.count("train")
        if samples_trained_on(num_train, config.batch_size) == 0:
            raise DataError(f"training needs at least 2 samples, got {num_train}")
        self._mixed = target_mixing(config, self._task, len(data.classes))
        self._train = varied(data, config).loader(
            "train", batch_size=config.batch_size, device=device
        )
        self._validation = data.loader("validation", device=device)
        self._precision = training_precision(device, data.sample.inputs)
        self._num_steps = steps_per_epoch(num_train, config.batch_size)
        self._rates = learning_rates(config, self._epochs, self._num_steps)
        self._stepper = Stepper(self._model, config)
        self._average = AveragedWeights(self._model, config.ema_decay) if config.ema_decay else None
        self._patching = patching(self._model, device)
        self._step = self._whole_step()

    @property
    def step_note(self) -> str:
        return self._step.why_not if isinstance(self._step, GraphedStep) else ""

    def run(
        self,
        stage: str,  # noqa: ARG002 - all are trained alike
        on_epoch: Callable[[EpochReport], None],
    ) -> None:
        if not self.is_finished:
            state = {"arguments": self._arguments, "state": self.state_dict()}
            self._ranks.begin({"model": self._model, **state})
        while not self.is_finished:
            on_epoch(self.run_epoch())

    def run_epoch(self) -> EpochReport:
        """Train on every sample once, then measure the validation score.

        Raises TrainingDivergedError when the mean loss or the score is not finite.
        """
        epoch = len(self.reports)
        with self._ranks.epoch(epoch), self.watch.during("steps"):
            images, loss, penalty, rate = self.take_steps(epoch)
        if not math.isfinite(loss + penalty):
            raise TrainingDivergedError(
                f"training diverged in epoch {epoch + 1} of {self._epochs}: the loss is "
                f"{loss + penalty}; try a learning rate below {self._config.learning_rate:g} "
                "or a weaker penalty"
            )
        with self.watch.during("evaluation"):
            score = self._task.measured(self._model, self._validation)
        report = EpochReport(
            epoch=epoch + 1,
            train_loss=loss,
            penalty=penalty,
            validation_score=score,
            learning_rate=rate,
            images_seen=images + self.images_seen,
            seconds=self.watch.taken(),
        )
        self.reports = (*self.reports, report)
        return report

    def take_steps(self, epoch: int) -> tuple[int, float, float, float]:
        """Train on every sample once: samples seen, mean loss, mean penalty and the last rate.

        epoch: counted from 0.
        """
        rates = self._rates[epoch * self._num_steps :][: self._num_steps].tolist()
        seed = seed_of_epoch(self._seed, epoch)
        self._exchange_average()
        self._ranks.agree(self._model, seed)
        with seeded(seed, self._device), in_mode(self._model, training=True):
            results = self._steps(torch.Generator().manual_seed(seed), rates)
        self._exchange_average()
        return *results, rates[-1]

    def state_dict(self) -> dict[str, Any]:
        average = self._average
        return super().state_dict() | {
            "optimizer": self._stepper.state_dict(),
            "average": None if average is None else average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._stepper.load_state_dict(state["optimizer"])
        self._step = self._whole_step()  # what was captured has read and written other tensors
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _exchange_average(self) -> None:
        """Put the average where the weights are that steps are taken from, and the other way."""
        if self._average is not None:
            self._average.swap()

    def _steps(
        self, generator: torch.Generator, rates: Sequence[float]
    ) -> tuple[int, float, float]:
        """One epoch of steps at these rates: samples seen, mean loss, mean penalty."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        num_seen = 0
        for number, samples in enumerate(self.watch.fetching(self._train.shuffled(generator))):
            batch = self._mixed(samples)
            self._stepper.set_rate(rates[min(number, len(rates) - 1)])
            losses = self._step(batch)
            if self._after_step is not None:
                self._after_step(self._model)
            if self._average is not None:
                self._average.update()
            size = num_samples(batch)
            num_seen += size
            # Summed on the device: reading a number back would stall the accelerator.
            sums += losses * size
        self._stepper.forget_gradients()
        sums[0] = self._ranks.total(sums[0])
        loss_sum, penalty_sum = sums.tolist()
        return num_seen, loss_sum / num_seen, penalty_sum / num_seen

    def _eager_step(self, batch: Batch) -> Tensor:
        """Forward, loss, penalty, backward, update: the loss and the penalty, shape (2,)."""
        loss = self._gradients(batch)
        penalty = loss.new_zeros(()) if self._penalty is None else self._penalty(self._model)
        self._stepper.step(penalty)
        return torch.stack([loss, penalty]).detach()

    def _gradients(self, batch: Batch) -> Tensor:
        """The mean loss of a minibatch; its gradients are left in the parameters.

        Of several processes, what this one adds to it.
        """
        part = self._ranks.part_of(batch)
        is_low = self._precision != torch.float32
        with self._ranks.computing(part, self._device):
            with (
                self._patching(),
                torch.autocast(self._device.type, self._precision, enabled=is_low),
            ):
                loss = self._task.training_step(self._model, part.samples)
            if not loss.requires_grad:
                raise ModelError(
                    f"{type(self._model).__name__} cannot learn: its outputs need no parameter "
                    "that requires gradients (requires_grad, torch.no_grad, detach)"
                )
            loss = part.weighted(loss)
            self._stepper.backward(loss)
        self._ranks.add_up(self._model.parameters())
        return loss

    def _whole_step(self) -> Step:
        """The step as it is taken: captured as a CUDA graph where there is a GPU."""
        if self._device.type != "cuda":
            return self._eager_step
        return GraphedStep(
            self._eager_step,
            state=lambda: [*tensors_of(self._model), *self._stepper.tensors()],
            capture=CudaCapture(self._device),
            why_not=self._not_captured(),
        )

    def _not_captured(self) -> str:
        """Why this training is not to be captured, whatever a trial would say; empty if it is."""
        task = self._task
        if has_own(task, "training_step") and not isinstance(task, Distillation):
            return f"{type(task).__name__} has a training step of its own"
        return "" if self._ranks.size == 1 else "several processes take each step together"


def train(
    model: nn.Module,
    data: Data,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    **arguments: Unpack[TrainingArguments],
) -> TrainingReport:
    """Train `model` in place for `epochs` epochs (at least 1); see `Trainer`.

    `on_epoch` is called after each epoch and may raise to stop. Raises
    TrainingDivergedError when a loss becomes infinite or NaN.
    """
    started = time.perf_counter()
    trainer = Trainer(model, data, **arguments)
    while not trainer.is_finished:
        report = trainer.run_epoch()
        if on_epoch is not None:
            on_epoch(report)
    return TrainingReport(trainer.reports, time.perf_counter() - started)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """A seed for one epoch of a run; no two pairs are mixed into it alike.

    Each number is 32 bits wide: a wider seed beside the epoch would be several of them.
    """
    high, low = divmod(seed % 2**64, 2**32)
    return int(np.random.SeedSequence((low, epoch, high)).generate_state(1)[0])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators at `seed` inside, and as they were afterwards."""
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=accelerators):
        seed_global_generators(seed, device)
        yield


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Start torch's random numbers on the CPU and on this device anew."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
