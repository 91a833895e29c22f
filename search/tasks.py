"""What is to be done, what came of it, and who hands it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from copycat.width_profile import WidthProfile
from pruning.cost import Cost
from pruning.structures import Kind, Structure
from search.space import Proposal

Origin = Literal[
    "fine-tuned",
    "from-scratch",
    "copycat",
    "uniform",
    "copycat-all",
    "tempered",
    "wrn",
    "bottleneck",
    "depth",
    "mobilenetv2",
]
"""How weights came about: pruned and fine-tuned; the same shape from scratch; a rescaled shape
from scratch; the base network narrowed by one factor, from scratch; after them the further kinds
of family studies, all from scratch (see copycat.families)."""

Stage = Literal["sparse training", "training", "fine-tuning", "from scratch"]
"""What a network goes through; plain training is that of one pruned at initialisation."""

ORIGINS: tuple[Origin, ...] = ("fine-tuned", "from-scratch", "copycat", "uniform")
"""Those of a search."""


@dataclass(frozen=True)
class TrialTask:
    """Train sparsely, prune, fine-tune: one proposal."""

    number: int
    proposal: Proposal

    @property
    def key(self) -> str:
        """Name of the architecture that comes of it."""
        return f"fine-tuned-{self.number}"


@dataclass(frozen=True)
class MemberTask:
    """Train one member of a family from scratch.

    key: name of the architecture.  trial: whose shape it is; None for a uniform network.
    rung: fraction of the budget that it fills; None for the very shape of the trial.
    alpha: factor on the widths of that shape.  widths: channels per group.
    removed: kind and name of the structures that shape lacks.
    seed: of weights and batches; by default that of its trial.
    budget: its own in absolute numbers; by default that of the search.
    equal_compute: train for as many more epochs as it costs fewer FLOPs than the base network,
        whatever the search does with its other networks.
    builder: target and arguments, where the widths are those of another base network.
    """

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    widths: Mapping[str, int]
    removed: Sequence[tuple[Kind, str]] = ()
    seed: int | None = None
    budget: str = ""
    equal_compute: bool = False
    builder: tuple[str, Mapping[str, Any]] | None = None

    @property
    def profile(self) -> WidthProfile:
        """The shape to train."""
        return WidthProfile(self.widths, tuple(Structure(*pair) for pair in self.removed))


Task = TrialTask | MemberTask


@dataclass(frozen=True)
class Outcome:
    """A trained and stored architecture.

    flops, params: as certified by fvcore.  Accuracies are in [0, 1]; test accuracy was
    measured once, when the architecture was stored, and decides nothing.
    profile: digest of the shape.  path: folder below the search's own.
    seed: of weights and batches.  equal_compute: whether it trained longer than the others for
        costing less.  images: training images that the whole way to it took, repetitions counted.
    compute: the same in FLOPs, images × FLOPs of the network that was trained on them, one
        forward run each; those before pruning cost as many as the base network.
    weight_bytes, peak_activation_bytes, latency_ms: as in Cost; None where not worked out.
    details: further measurements, such as the accuracy before and after pruning.
    """

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    flops: int
    params: int
    validation_accuracy: float
    test_accuracy: float
    profile: str
    path: str
    seed: int = 0
    equal_compute: bool = False
    images: int = 0
    compute: float = 0.0
    weight_bytes: int | None = None
    peak_activation_bytes: int | None = None
    latency_ms: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """What it costs, as certified when it was stored."""
        return Cost(
            self.flops,
            self.params,
            weight_bytes=self.weight_bytes,
            peak_activation_bytes=self.peak_activation_bytes,
            latency_ms=self.latency_ms,
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_mapping`."""
        return cls(**content)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one task.

    stage: what the task is doing.  step: epochs since the task began, from 1, of `num_steps`.
    """

    stage: Stage
    step: int
    num_steps: int
    train_loss: float
    validation_accuracy: float
    learning_rate: float
    sparsity: float | None = None


class Observer(Protocol):
    """Hears of everything that happens to tasks, in the process that drives the search."""

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, record: EpochRecord) -> None: ...

    def finished(self, task: Task, outcome: Outcome) -> None: ...

    def failed(self, task: Task, reason: str) -> None: ...


class Observers:
    """Passes everything on to several observers."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def started(self, task: Task) -> None:
        for observer in self._observers:
            observer.started(task)

    def epoch(self, task: Task, record: EpochRecord) -> None:
        for observer in self._observers:
            observer.epoch(task, record)

    def finished(self, task: Task, outcome: Outcome) -> None:
        for observer in self._observers:
            observer.finished(task, outcome)

    def failed(self, task: Task, reason: str) -> None:
        for observer in self._observers:
            observer.failed(task, reason)


class TaskSource(Protocol):
    """Hands out tasks and takes back what came of them."""

    def __len__(self) -> int:
        """How many tasks are still to come."""

    def next(self) -> Task | None:
        """The next task, or None when there is none left."""

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Take a result."""

    def failed(self, task: Task, reason: str) -> None:
        """Take a failure."""


class TaskList:
    """A source of tasks that are known beforehand."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = list(tasks)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Task | None:
        return self._waiting.pop(0) if self._waiting else None

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Nothing waits for the results."""

    def failed(self, task: Task, reason: str) -> None:
        """Nothing waits for the results."""
