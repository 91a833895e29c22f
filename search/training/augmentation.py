"""How training samples are varied: torchvision's transforms on minibatches, on the device.

All of this is for images of classes, whose minibatches are tensors: people's own Datasets have
transforms of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules
from search.config.settings import require
from search.config.training_config import TrainingConfig
from search.data.data import Batch, Data
from search.data.datasets import ImageData
from search.tasks.task import Task

if TYPE_CHECKING:
    from torchvision.transforms import v2
else:
    (v2,) = lazy_modules("torchvision.transforms.v2")

_SHARE_A_DRAW = 4
"""Images that are cropped and changed alike. torchvision draws once for what it is given: one
image at a time, a GPU would wait for each. Of each image alone the distribution is the same, and
minibatches are made up anew in every epoch."""


def varied(data: Data, config: TrainingConfig) -> Data:
    """The same data, whose training images are cropped and changed as `config` says.

    Raises ConfigError for data that are no images, or images of neither one nor three channels,
    which RandAugment and TrivialAugment do not know.
    """
    if config.crop == "shifted" and config.augment == "none":
        return data
    if not isinstance(data, ImageData):
        name, usual = ("augment", "none") if config.crop == "shifted" else ("crop", "shifted")
        expected = f"{usual} for {data.name}, whose Dataset has transforms of its own"
        raise ConfigError(f"{name} must be {expected}, got {getattr(config, name)!r}", field=name)
    channels, height, width = data.train.image_shape
    if config.augment != "none" and channels not in (1, 3):
        raise ConfigError(
            f"augment must be none for images of {channels} channels: {config.augment} changes "
            "grey and colour images",
            field="augment",
        )
    transforms: list[Callable[[Tensor], Tensor]] = []
    padding = data.augmentation.crop_padding
    if config.crop == "resized":
        padding = 0
        transforms.append(v2.RandomResizedCrop((height, width), scale=(config.crop_area, 1.0)))
    if config.augment == "randaugment":
        transforms.append(v2.RandAugment(magnitude=config.augment_magnitude))
    elif config.augment == "trivialaugment":
        transforms.append(v2.TrivialAugmentWide())
    return replace(
        data,
        augmentation=replace(
            data.augmentation,
            crop_padding=padding,
            transform=_in_groups(v2.Compose(transforms)),
        ),
    )


def target_mixing(config: TrainingConfig, task: Task, num_classes: int) -> Callable[[Batch], Batch]:
    """From a minibatch to one whose targets are shares of the classes, as `config` asks for.

    mixup (Zhang et al.) and cutmix (Yun et al.) mix each image with the one before it; then label
    smoothing (Szegedy et al., "Rethinking the Inception Architecture", §7) moves a share s of each
    target to all K classes: (1 − s) · target + s / K. Where nothing is asked for, minibatches
    stay as they are. Random numbers are of torch's global generator.
    Raises ConfigError where the task's targets are no classes.
    """
    for name in ("label_smoothing", "mixup", "cutmix"):
        expected = f"0 where targets are no classes (the score is {task.score.name})"
        share = getattr(config, name)
        require(task.takes_class_shares or not share, name, expected, share)
    mixes = []
    if config.mixup:
        mixes.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix:
        mixes.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    smoothing = config.label_smoothing
    if not (mixes or smoothing):
        return lambda batch: batch

    def mixed(batch: Batch) -> Batch:
        inputs, targets = batch
        if mixes:
            inputs, targets = v2.RandomChoice(mixes)(inputs, targets)
        else:
            targets = F.one_hot(targets, num_classes).float()
        return inputs, (1 - smoothing) * targets + smoothing / num_classes

    return mixed


def _in_groups(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.cat([transform(few) for few in torch.split(images, _SHARE_A_DRAW)])
