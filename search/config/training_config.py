"""How networks are trained, and the recipes of papers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pruning.errors import ConfigError
from search.config.settings import option, require, require_defaults, settings

_FAR_TOO_HIGH_FOR_ADAMW = 0.1
"""AdamW moves every weight by about the learning rate in every step."""

_NEEDED_BY = {
    "without distill or distill_from": ("distill_temperature", "distill_weight"),
    "unless the schedule is step": ("drop_at", "drop_by"),
    "with adamw": ("nesterov",),
    "unless crop is resized": ("crop_area",),
    "unless augment is randaugment": ("augment_magnitude",),
}
"""Settings that have no effect for these reasons."""

Schedule = Literal["rni", "copycat", "step", "cosine", "one-cycle", "constant"]


@settings
class TrainingConfig:
    """How each network is trained (settings of the RNI authors' experiments by default).

    SGD with momentum 0.9, Nesterov's by default, or AdamW; the learning rate follows the
    schedule; σBN scales learn 10 times faster and without weight decay. A mapping may also hold
    `recipe`, one of RECIPES, which its other settings are laid over.

    Training from scratch at equal epochs is the default. At equal compute it lasts
    num_scratch_epochs × base FLOPs / FLOPs of the network, at most num_scratch_epochs ×
    compute_limit: Liu et al., "Rethinking the Value of Network Pruning", §3, who at most double the
    epochs (Scratch-B). The schedule stretches with them, its warm-up does not. Fine-tuning and
    training from scratch may also learn from a trained network (distillation).
    """

    epochs: int = option(
        160,
        "epochs of sparse training, before pruning; 0 only with --weights, or with --descend: then "
        "nothing but the smaller networks is trained",
        ge=0,
    )
    fine_tune_epochs: int = option(160, "epochs of fine-tuning, after pruning", ge=1)
    scratch_epochs: int | None = option(
        None,
        "epochs of training from scratch; by default as many as sparse training and fine-tuning "
        "have together, or as one of them in `espalier family`",
        ge=1,
    )
    batch_size: int = option(64, "images in a minibatch", ge=1)
    learning_rate: float = option(0.1, "highest learning rate of the schedule", gt=0)
    weight_decay: float = option(1e-4, "weight decay of the optimizer", ge=0)
    linear_weight_decay: float | None = option(
        None, "weight decay of the weights of linear layers; by default that of all", ge=0
    )
    schedule: Schedule = option(
        "rni",
        "course of the learning rate: rni (divided by 10 at 50 % and 75 % of the epochs), "
        "copycat (divided by 5 every 30 %, as every 60 of 200 epochs), step (see --drop-at), "
        "cosine (down to 0), one-cycle (up, then down) or constant",
    )
    fine_tune_learning_rate: float | None = option(
        None, "highest learning rate of fine-tuning; by default that of training", gt=0
    )
    fine_tune_schedule: Schedule | None = option(
        None, "course of the learning rate in fine-tuning; by default as in training"
    )
    scratch_learning_rate: float | None = option(
        None, "highest learning rate of training from scratch; by default that of training", gt=0
    )
    warmup_epochs: int = option(
        0,
        "epochs in which the learning rate rises step by step to its highest; of one-cycle, 30 % "
        "of all if 0",
        ge=0,
    )
    fine_tune_warmup_epochs: int | None = option(
        None, "warm-up of fine-tuning; by default as in training", ge=0
    )
    drop_at: tuple[float, ...] = option(
        (),
        "fraction of the epochs at which the schedule step drops; repeatable; by default a third "
        "and two thirds",
    )
    drop_by: float = option(10.0, "what each drop of the schedule step divides by", gt=1)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "sgd (with momentum 0.9) or adamw")
    nesterov: bool = option(
        True, "Nesterov's momentum (default), or the classical one; of --optimizer sgd"
    )
    clip_norm: float | None = option(
        None,
        "largest norm of the gradient of the loss, over all weights together; unbounded by default",
        gt=0,
    )
    ema_decay: float = option(
        0.0,
        "decay of a running average of the weights, such as 0.999, which is evaluated, pruned and "
        "stored in their place; 0 for none",
        ge=0,
        lt=1,
    )
    label_smoothing: float = option(
        0.0, "share of each label that is spread evenly over all classes", ge=0, lt=1
    )
    crop: Literal["shifted", "resized"] = option(
        "shifted",
        "how training images are cropped at random: shifted (padded, then cut to their size) or "
        "resized (parts of many sizes and aspect ratios, scaled to their size)",
    )
    crop_area: float = option(
        0.08, "least share of its area that --crop resized leaves of an image", gt=0, le=1
    )
    augment: Literal["none", "randaugment", "trivialaugment"] = option(
        "none", "further changes of training images: none, randaugment or trivialaugment"
    )
    augment_magnitude: int = option(9, "magnitude of --augment randaugment, of 31", ge=0, le=30)
    mixup: float = option(
        0.0,
        "α of mixup, such as 0.2, which blends pairs of images and their labels; 0 for none",
        ge=0,
    )
    cutmix: float = option(
        0.0,
        "α of cutmix, such as 1, which puts a part of one image into another; 0 for none; with "
        "--mixup, too, one of them at random in every step",
        ge=0,
    )
    equal_compute: bool = option(
        False,
        "train from scratch for as many more epochs as the network costs fewer FLOPs than the "
        "base network",
    )
    compute_limit: float = option(
        2.0, "most that equal compute multiplies the epochs of training from scratch by", ge=1
    )
    distill: bool = option(
        False,
        "fine-tuning and training from scratch imitate the outputs of the trained base network, "
        "beside the labels",
    )
    distill_from: str = option(
        "", "folder of a trained architecture to imitate in the place of the base network"
    )
    distill_temperature: float = option(
        4.0, "temperature that softens outputs, with --distill or --distill-from", gt=0
    )
    distill_weight: float = option(
        0.9,
        "weight of imitation, 0 to 1, labels have the rest; with --distill or --distill-from",
        ge=0,
        le=1,
    )

    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rni": {},
        "imagenet": {
            "epochs": 90,
            "fine_tune_epochs": 30,
            "batch_size": 512,
            "schedule": "step",
            "fine_tune_learning_rate": 0.01,
            "crop": "resized",
        },
        "cifar": {
            "epochs": 200,
            "fine_tune_epochs": 200,
            "batch_size": 128,
            "weight_decay": 5e-4,
            "schedule": "cosine",
        },
        "fine-tune": {
            "epochs": 40,
            "fine_tune_epochs": 40,
            "learning_rate": 0.01,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "scratch_epochs": 160,
            "scratch_learning_rate": 0.1,
        },
        "scaling-factors": {
            "epochs": 100,
            "fine_tune_epochs": 20,
            "batch_size": 128,
            "weight_decay": 0.1,
        },
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
    repeats the schedule of training (§5.1).
    imagenet: the same paper on ImageNet: drops at a third and two thirds, fine-tuning at a tenth
    of the learning rate; of the images it says nothing: parts of them, as everybody does since
    Szegedy et al., "Going Deeper with Convolutions", §6.
    cifar: Loshchilov and Hutter, "SGDR", §4.1: one cosine over 200 epochs.
    fine-tune: for networks that come trained: sparse training and fine-tuning for a quarter of
    the epochs of training each, as Li et al., "Pruning Filters for Efficient ConvNets", §4, but
    from a tenth of its learning rate down; from scratch as long and as fast as by default.
    scaling-factors: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling
    Factors", §4.2, §4.3 and §5, on VGG-16 (`vgg16-fc`): an L2 norm of 0.05, whose gradient is that
    of a weight decay of 0.1, on every layer. Optimizer, learning rate and its course are not told.
    copycat: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?",
    implementation details: fine-tuning at the lowest learning rate that training reached, 0.1 / 5³.
    """

    def __post_init__(self) -> None:
        for why, names in self._without_effect.items():
            require_defaults(self, names, why)
        self._require_room_for_warmup()
        rising = all(a < b for a, b in zip((0.0, *self.drop_at), (*self.drop_at, 1.0), strict=True))
        require(rising, "drop_at", "rising fractions between 0 and 1", self.drop_at)
        for name in ("learning_rate", "fine_tune_learning_rate", "scratch_learning_rate"):
            rate = getattr(self, name)
            is_low = self.optimizer == "sgd" or rate is None or rate < _FAR_TOO_HIGH_FOR_ADAMW
            require(is_low, name, "below 0.1 with adamw, such as 0.001", rate)

    @property
    def _without_effect(self) -> dict[str, tuple[str, ...]]:
        """Settings that others leave no effect, by the reason."""
        used_by = {
            "without distill or distill_from": bool(self.teacher),
            "unless the schedule is step": "step" in (self.schedule, self.fine_tune_schedule),
            "with adamw": self.optimizer == "sgd",
            "unless crop is resized": self.crop == "resized",
            "unless augment is randaugment": self.augment == "randaugment",
        }
        return {why: _NEEDED_BY[why] for why, is_used in used_by.items() if not is_used}

    def _require_room_for_warmup(self) -> None:
        """ConfigError for a warm-up that lasts as long as what it is a part of."""
        for name, warmup, length in (
            ("epochs", self.warmup_epochs, self.epochs),
            ("fine_tune_epochs", self.fine_tuning_warmup, self.fine_tune_epochs),
            ("scratch_epochs", self.warmup_epochs, self.num_scratch_epochs),
        ):
            if warmup and warmup >= length > 0:
                setting = "warmup_epochs"
                if name == "fine_tune_epochs" and self.fine_tune_warmup_epochs is not None:
                    setting = "fine_tune_warmup_epochs"
                raise ConfigError(
                    f"{setting} must be below {name}, which is {length}, got {warmup}",
                    field=setting,
                )

    @property
    def teacher(self) -> str:
        """What smaller networks imitate: a folder, or "base", the trained base; empty for none."""
        return self.distill_from or ("base" if self.distill else "")

    @property
    def fine_tuning_warmup(self) -> int:
        """Epochs of warm-up in fine-tuning."""
        given = self.fine_tune_warmup_epochs
        return self.warmup_epochs if given is None else given

    @property
    def num_scratch_epochs(self) -> int:
        """Epochs of training from scratch: as many as a fine-tuned network has, if not given."""
        return self.scratch_epochs or self.epochs + self.fine_tune_epochs

    def for_fine_tuning(self, epochs_used: int = 0) -> TrainingConfig:
        """These settings with the length and the learning rate of fine-tuning.

        epochs_used: of its epochs, of which at least one is left, those that are gone before.
        """
        epochs = self.fine_tune_epochs - epochs_used
        return self._of_stage(
            epochs,
            self.fine_tune_learning_rate,
            self.fine_tune_schedule or self.schedule,
            min(self.fine_tuning_warmup, epochs - 1),
        )

    def for_scratch(self) -> TrainingConfig:
        """These settings with the length and the learning rate of training from scratch."""
        return self._of_stage(
            self.num_scratch_epochs, self.scratch_learning_rate, self.schedule, self.warmup_epochs
        )

    def for_iterative_pruning(self, epochs: int, learning_rate: float | None) -> TrainingConfig:
        """These settings for a network that is pruned while it trains.

        The rate is constant, a tenth of the highest by default, as the Taylor paper has it
        (§4.2.2: 0.01 for what was trained at 0.1); there is no running average of the weights.
        """
        rate = learning_rate or self.learning_rate / 10
        return dataclasses.replace(self._of_stage(epochs, rate, "constant", 0), ema_decay=0.0)

    def _of_stage(
        self, epochs: int, learning_rate: float | None, schedule: Schedule, warmup_epochs: int
    ) -> TrainingConfig:
        """Settings whose first stage is this one, all of whose stages are alike."""
        drops = schedule == "step"
        return dataclasses.replace(
            self,
            epochs=epochs,
            fine_tune_epochs=epochs,
            scratch_epochs=None,
            learning_rate=learning_rate or self.learning_rate,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            fine_tune_learning_rate=None,
            fine_tune_schedule=None,
            fine_tune_warmup_epochs=None,
            scratch_learning_rate=None,
            drop_at=self.drop_at if drops else (),
            drop_by=self.drop_by if drops else TrainingConfig.drop_by,
        )

    def epochs_from_scratch(self, flops: int, base_flops: int) -> int:
        """Epochs that a network of `flops` trains from scratch, below a base of `base_flops`.

        At equal compute rounded down, so that nobody trains with more than the base network.
        """
        epochs = self.num_scratch_epochs
        if not self.equal_compute:
            return epochs
        return max(1, min(epochs * base_flops // flops, math.floor(epochs * self.compute_limit)))

    def params(self, without: Collection[str] = ()) -> dict[str, Any]:
        """Those of these settings that have a value and an effect, as a record has them."""
        left_out = {*without, *(name for names in self._without_effect.values() for name in names)}
        return {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name not in left_out and value not in ("", None, ())
        }

    def resolved(self) -> TrainingConfig:
        """The same settings with what follows from others written out."""
        return dataclasses.replace(self, scratch_epochs=self.num_scratch_epochs)
