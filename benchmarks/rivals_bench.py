"""What every rival is given: a network, data, a recipe, and so much training compute.

Compute is images × FLOPs of one forward run of the network that is trained on them; a training step
is one forward and one backward run, and an image that is only looked at forwards counts a third.
Validation after each epoch, the same for all, is left out. Scores of the test split are written
down and decide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from copycat.families import Family, FamilyKind, Member
from copycat.families.series import Shape
from copycat.width_profile import WidthProfile
from pruning.cost import Bound, Budget
from pruning.errors import BudgetError
from search.config.data_config import DataConfig
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.data import samples_trained_on
from search.data.datasets import load
from search.models import required_channels
from search.studies.search_study import preflight_of
from search.tasks.classification import Classification
from search.training.trainer import Trainer
from search.trials.pareto import Reference

MIN_CHANNELS = SearchConfig.min_channels
"""That stay in every layer, where a rival knows a floor."""

FORWARD_ALONE = 1 / 3
"""What an image that nothing is learned from counts, beside one that is trained on."""


@dataclass(frozen=True)
class Setting:
    """A network on data, the budgets that it is brought to, and what may be spent.

    budgets: shares of the base network's FLOPs, the largest first.
    epochs: of every training, from scratch as of fine-tuning.
    base_epochs: of the base network, for rivals that prune.
    trainings: compute, in trainings of the base network for as many epochs as the others.
    """

    name: str
    model: str
    data: DataConfig
    budgets: tuple[float, ...]
    epochs: int
    base_epochs: int
    trainings: float
    num_seeds: int
    batch_size: int = 64

    @property
    def training(self) -> TrainingConfig:
        """The recipe, of every stage."""
        return TrainingConfig(
            epochs=self.epochs,
            fine_tune_epochs=self.epochs,
            scratch_epochs=self.epochs,
            batch_size=self.batch_size,
        )

    @property
    def search(self) -> SearchConfig:
        """As a search has it."""
        return SearchConfig(
            model=self.model,
            data=self.data,
            training=self.training,
            budget=(f"flops={100 * self.budgets[0]:g}%",),
            ladder=tuple(share / self.budgets[0] for share in self.budgets),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able, without the folder of the images, which differs from machine to machine."""
        data = asdict(self.data) | {"source": self.data.source.partition(":")[0]}
        return asdict(self) | {"budgets": list(self.budgets), "data": data}


@dataclass(frozen=True)
class Evaluated:
    """A network that a rival has trained: shape, cost, scores, and what was spent until then."""

    widths: Mapping[str, int]
    flops: int
    validation_score: float
    test_score: float
    spent: float


@dataclass(frozen=True)
class Times:
    """Seconds: all, of these in training, and all of the processor's."""

    wall: float
    training: float
    processor: float | None


@dataclass
class Bench:
    """One seed of a setting: trains and judges networks, and keeps count of the compute.

    networks: what was judged, in its order.  details: what a rival tells of itself.
    """

    setting: Setting
    seed: int
    spent: float = 0.0
    networks: list[Evaluated] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds_training: float = 0.0

    def __post_init__(self) -> None:
        config = replace(self.setting.search, seed=self.seed)
        channels = required_channels(config.model)
        self.data = load(config.data, channels=channels, seed=self.seed)
        self.preflight = preflight_of(config, self.data.sample)
        self.base = self.preflight.base_network(config.restrictions)
        self.graph, self.groups = self.preflight.graph, self.preflight.groups
        self.task, self.device = Classification(), torch.device("cpu")

    @property
    def images_per_epoch(self) -> int:
        """Training images that an epoch looks at."""
        return samples_trained_on(self.data.count("train"), self.setting.batch_size)

    @property
    def limit(self) -> float:
        """Compute that may be spent."""
        return self.setting.trainings * self.compute_of(self.preflight.base.flops)

    @property
    def reference(self) -> Reference:
        """What hypervolumes are measured from: as a search has it."""
        return self.preflight.reference

    @property
    def budgets(self) -> list[int]:
        """FLOPs, the largest first."""
        return [int(share * self.preflight.base.flops) for share in self.setting.budgets]

    def compute_of(self, flops: float, epochs: int | None = None) -> float:
        """What so many epochs of training take; by default those of the recipe."""
        return flops * self.images_per_epoch * (epochs or self.setting.epochs)

    def affords(self, flops: float, epochs: int | None = None) -> bool:
        """Whether a network of so many FLOPs can still be trained."""
        return self.spent + self.compute_of(flops, epochs) <= self.limit

    def flops(self, widths: Mapping[str, int]) -> int:
        """In closed form."""
        return self.graph.cost(widths).flops

    def members(self, kind: FamilyKind) -> Iterator[Member]:
        """The largest network of a kind within each budget, where there is one."""
        family = Family(self.base, kind)
        for limit in self.budgets:
            try:
                yield family.member(Budget((Bound("flops", limit),)))
            except BudgetError:
                continue

    def fresh(self, widths: Mapping[str, int], seed: int) -> nn.Module:
        """A network of these widths that has learned nothing."""
        return self.base.build(Shape(WidthProfile(dict(widths))), seed)

    def train(self, model: nn.Module, seed: int, training: TrainingConfig | None = None) -> None:
        """Train by the recipe, or by another, in place; its compute is counted."""
        training = training or self.setting.training
        trainer = Trainer(
            model,
            self.data,
            task=self.task,
            epochs=training.epochs,
            config=training,
            seed=seed,
            device=self.device,
        )
        with self.training():
            while not trainer.is_finished:
                trainer.run_epoch()
        self.spent += self.compute_of(self.flops(self.widths_of(model)), training.epochs)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, time is that of training."""
        begun = time.perf_counter()
        yield
        self.seconds_training += time.perf_counter() - begun

    def charge(self, images: int, flops: float) -> None:
        """Count compute that no training has taken."""
        self.spent += images * flops

    def judge(self, model: nn.Module) -> Evaluated:
        """Measure a trained network, and write it down."""
        widths = self.widths_of(model)
        network = Evaluated(
            widths, self.flops(widths), self.score(model), self.score(model, "test"), self.spent
        )
        self.networks.append(network)
        return network

    def score(self, model: nn.Module, part: str = "validation") -> float:
        """Share of a part that the network has right."""
        return self.task.measured(model, self.data.loader(part, device=self.device))

    def from_scratch(
        self, widths: Mapping[str, int], seed: int, epochs: int | None = None
    ) -> Evaluated:
        """Train these widths from scratch, and judge them; by default as long as the recipe."""
        model = self.fresh(widths, seed)
        training = self.setting.training
        self.train(model, seed, replace(training, epochs=epochs or training.epochs))
        return self.judge(model)

    def trained_base(self) -> nn.Module:
        """The base network, trained; it is no candidate."""
        model = self.fresh({}, self.seed)
        self.train(
            model, self.seed, replace(self.setting.training, epochs=self.setting.base_epochs)
        )
        return model

    def widths_of(self, model: nn.Module) -> dict[str, int]:
        """Channels that are left of each group that is pruned."""
        weights = dict(model.named_parameters())
        return {name: weights[f"{name}.weight"].shape[0] for name in self.groups}

    def seed_of(self, number: int) -> int:
        """A seed of weights and batches that no other training of any seed has."""
        return 10_000 * (self.seed + 1) + number

    def to_mapping(self, times: Times) -> dict[str, Any]:
        """JSON-able: everything that the page is made of."""
        names = list(self.groups)
        return {
            "setting": self.setting.to_mapping(),
            "seed": self.seed,
            "base_flops": self.preflight.base.flops,
            "reference": asdict(self.reference),
            "limit": self.limit,
            "spent": self.spent,
            "times": asdict(times),
            "details": self.details,
            "groups": names,
            "networks": [
                [
                    [network.widths[name] for name in names],
                    network.flops,
                    network.validation_score,
                    network.test_score,
                    network.spent,
                ]
                for network in self.networks
            ],
        }
