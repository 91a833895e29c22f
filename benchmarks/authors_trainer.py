"""The training step of the RNI authors' experiments, with its settings, as a thing to compare with.

Written after their published code (github.com/xapharius/receding-neuron-importances, rni/cifar):
one loader worker that crops, mirrors and normalises PIL images one by one; float32; σBN layers
looked for among all modules in every step; SGD with Nesterov momentum as torch makes it by default.
The network is the caller's, so that both sides train the same one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pruning.sigmoid_batchnorm import SigmoidBatchNorm

STRENGTH, SHIFT = 1e-3, 3.0
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class _Images(Dataset[Any]):
    """As torchvision's CIFAR10 gives them: an array in memory, an image of PIL at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: np.ndarray[Any, Any] = self._images[index]
        return self._transform(Image.fromarray(image)), self._labels[index]


class AuthorsTrainer:
    """Trains a network with σBN, an epoch at a time.

    images: uint8 (N, 3, 32, 32).  labels: int64 (N,).
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int = 64,
        device: torch.device,
    ) -> None:
        self._model, self._device = model.to(device), device
        self._loader = DataLoader(
            _Images(images, labels),
            batch_size=batch_size,
            shuffle=True,
            num_workers=1,
            pin_memory=device.type == "cuda",
        )
        scales = [p for m in model.modules() if isinstance(m, SigmoidBatchNorm) for p in [m.weight]]
        known = {id(scale) for scale in scales}
        others = [p for p in model.parameters() if id(p) not in known]
        common = {"momentum": 0.9, "nesterov": True}
        self._optimizer = torch.optim.SGD(
            [
                {"params": others, "lr": 0.1, "weight_decay": 1e-4, **common},
                {"params": scales, "lr": 1.0, "weight_decay": 0.0, **common},
            ]
        )

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of one epoch, on the device."""
        for inputs, targets in self._loader:
            yield inputs.to(self._device), targets.to(self._device)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """One step."""
        loss = nn.functional.cross_entropy(self._model(inputs), targets)
        loss = loss + STRENGTH * self._penalty()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def run_epoch(self) -> None:
        """Train on every image once."""
        self._model.train()
        for inputs, targets in self.minibatches():
            self.step(inputs, targets)

    def timed_epoch(self) -> float:
        """Seconds of an epoch without the start of its worker."""
        self._model.train()
        begun = None
        for inputs, targets in self.minibatches():
            begun = begun or time.perf_counter()
            self.step(inputs, targets)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - (begun or 0.0)

    def _penalty(self) -> Tensor:
        weights = [
            m.weight.view(-1) for m in self._model.modules() if isinstance(m, SigmoidBatchNorm)
        ]
        scales = (torch.cat(weights) + SHIFT).sigmoid()
        return (scales * (1 - scales.log())).sum()
