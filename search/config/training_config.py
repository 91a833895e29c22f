"""How networks are trained, and the recipes of papers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from search.config.settings import option, require_defaults, settings

Schedule = Literal["rni", "copycat", "constant"]


@settings
class TrainingConfig:
    """How each network is trained (settings of the RNI authors' experiments by default).

    SGD with momentum 0.9, Nesterov's by default; the learning rate falls by the schedule; σBN
    scales learn 10 times faster and without weight decay. A mapping may also hold `recipe`, one of
    RECIPES, which its other settings are laid over.

    Training from scratch at equal epochs is the default. At equal compute it lasts
    num_scratch_epochs × base FLOPs / FLOPs of the network, at most num_scratch_epochs ×
    compute_limit: Liu et al., "Rethinking the Value of Network Pruning", §3, who at most double the
    epochs (Scratch-B). The schedule stretches with them. It may also learn from a trained network
    (distillation).
    """

    epochs: int = option(
        160, "epochs of sparse training, before pruning; 0 only with --weights", ge=0
    )
    fine_tune_epochs: int = option(160, "epochs of fine-tuning, after pruning", ge=1)
    scratch_epochs: int | None = option(
        None,
        "epochs of training from scratch; by default as many as sparse training and fine-tuning "
        "have together, or as one of them in `espalier family`",
        ge=1,
    )
    batch_size: int = option(64, "images in a minibatch", ge=1)
    learning_rate: float = option(0.1, "initial learning rate of SGD", gt=0)
    weight_decay: float = option(1e-4, "weight decay of SGD", ge=0)
    schedule: Schedule = option(
        "rni",
        "fall of the learning rate: rni (divided by 10 at 50 % and 75 % of the epochs), "
        "copycat (divided by 5 every 30 %, as every 60 of 200 epochs) or constant",
    )
    fine_tune_learning_rate: float | None = option(
        None, "initial learning rate of fine-tuning; by default that of training", gt=0
    )
    fine_tune_schedule: Schedule | None = option(
        None, "fall of the learning rate in fine-tuning; by default as in training"
    )
    nesterov: bool = option(True, "Nesterov's momentum (default), or the classical one")
    equal_compute: bool = option(
        False,
        "train from scratch for as many more epochs as the network costs fewer FLOPs than the "
        "base network",
    )
    compute_limit: float = option(
        2.0, "most that equal compute multiplies the epochs of training from scratch by", ge=1
    )
    distill_from: str = option(
        "", "folder of a trained architecture whose outputs training from scratch imitates"
    )
    distill_temperature: float = option(
        4.0, "temperature that softens outputs, with --distill-from", gt=0
    )
    distill_weight: float = option(
        0.9, "weight of imitation, 0 to 1, labels have the rest; with --distill-from", ge=0, le=1
    )

    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rni": {},
        "copycat": {
            "epochs": 200,
            "fine_tune_epochs": 200,
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "schedule": "copycat",
            "fine_tune_learning_rate": 8e-4,
            "fine_tune_schedule": "constant",
            "nesterov": False,
        },
    }
    """Settings by which papers trained, beside the defaults.

    rni: "Receding Neuron Importances for Structured Pruning", the defaults: on CIFAR, fine-tuning
    repeats the schedule of training; on ImageNet it starts at a tenth of its learning rate (§5.1).
    copycat: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?",
    implementation details: fine-tuning at the lowest learning rate that training reached, 0.1 / 5³.
    """

    def __post_init__(self) -> None:
        if not self.distill_from:
            names = ("distill_temperature", "distill_weight")
            require_defaults(self, names, "without distill_from")

    @property
    def num_scratch_epochs(self) -> int:
        """Epochs of training from scratch: as many as a fine-tuned network has, if not given."""
        return self.scratch_epochs or self.epochs + self.fine_tune_epochs

    def for_fine_tuning(self) -> TrainingConfig:
        """These settings with the learning rate of fine-tuning."""
        return dataclasses.replace(
            self,
            learning_rate=self.fine_tune_learning_rate or self.learning_rate,
            schedule=self.fine_tune_schedule or self.schedule,
        )

    def epochs_from_scratch(self, flops: int, base_flops: int) -> int:
        """Epochs that a network of `flops` trains from scratch, below a base of `base_flops`.

        At equal compute rounded down, so that nobody trains with more than the base network.
        """
        epochs = self.num_scratch_epochs
        if not self.equal_compute:
            return epochs
        return max(1, min(epochs * base_flops // flops, math.floor(epochs * self.compute_limit)))

    def resolved(self) -> TrainingConfig:
        """The same settings with what follows from others written out."""
        return dataclasses.replace(self, scratch_epochs=self.num_scratch_epochs)
