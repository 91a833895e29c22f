"""What is to be done, what came of it, and who hands it out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from copycat.width_profile import WidthProfile
from pruning.cost import Cost
from pruning.structure_removal.structures import Kind, Structure
from search.storage.layout import BASE_ARCHITECTURE
from search.trials.search_space import Proposal

Origin = Literal[
    "base",
    "sparse",
    "fine-tuned",
    "from-scratch",
    "copycat",
    "uniform",
    "random",
    "copycat-all",
    "tempered",
    "width",
    "wrn",
    "bottleneck",
    "depth",
    "mobilenetv2",
]
"""How weights came about: the base network as it is; trained sparsely and not pruned; pruned and
fine-tuned; the same shape from scratch; a rescaled shape from scratch; the base network narrowed
by one factor, from scratch; widths drawn at random, from scratch; after them the further kinds of
family studies, all from scratch (see copycat.families)."""

Stage = Literal[
    "sparse training",
    "training",
    "iterative pruning",
    "judging",
    "settling",
    "fine-tuning",
    "from scratch",
]
"""What a network goes through; plain training is that of one pruned at initialisation, judging the
short one of a candidate shape, settling that of one whose gates are at 0 or 1."""

ORIGINS: tuple[Origin, ...] = (
    *("base", "sparse", "fine-tuned", "from-scratch", "copycat", "tempered", "uniform", "random"),
)
"""Those of a search, the base network first."""


@dataclass(frozen=True)
class TrialJob:
    """Train sparsely, prune, fine-tune: one proposal.

    repeat: 0 for the trial itself; from 1 the same proposal again, with other seeds.
    """

    number: int
    proposal: Proposal
    repeat: int = 0

    @property
    def key(self) -> str:
        """Its name, and that of the architecture that meets the proposal's own target."""
        return self.product_key("")

    @property
    def sparse_key(self) -> str:
        """Name of the architecture that is stored before anything is pruned."""
        return f"sparse-{self.number}{_suffix(self.repeat)}"

    def product_key(self, suffix: str) -> str:
        """Name of the architecture that meets a target, by that target's suffix."""
        return f"fine-tuned-{self.number}{suffix}{_suffix(self.repeat)}"


@dataclass(frozen=True)
class FromScratchJob:
    """Train one member of a family from scratch.

    key: name of the architecture.  trial: whose shape it is; None for a uniform network.
    rung: fraction of the budget that it fills; None for the very shape of the trial.
    alpha: factor on the widths of that shape.  widths: channels per group.
    removed: kind and name of the structures that shape lacks.
    seed: of weights and batches; by default that of its trial.
    budget: its own in absolute numbers; by default that of the search.
    equal_compute: train for as many more epochs as it costs fewer FLOPs than the base network,
        whatever the search does with its other networks.
    rho: how much of that shape it keeps, 0 to 1; None where nothing was tempered.
    between: the names of that shape and of the one towards which it was tempered.
    builder: target and arguments, where the widths are those of another base network.
    """

    key: str
    origin: Origin
    widths: Mapping[str, int]
    removed: Sequence[tuple[Kind, str]] = ()
    trial: int | None = None
    rung: float | None = None
    alpha: float = 1.0
    seed: int | None = None
    budget: str = ""
    equal_compute: bool = False
    rho: float | None = None
    between: Sequence[str] = ()
    builder: tuple[str, Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, profile: WidthProfile, key: str, origin: Origin, **settings: Any) -> FromScratchJob:
        """The training of this shape; settings: any of the other fields."""
        removed = tuple((structure.kind, structure.name) for structure in profile.removed)
        return cls(key, origin, dict(profile.widths), removed, **settings)

    @property
    def profile(self) -> WidthProfile:
        """The shape to train."""
        return WidthProfile(self.widths, tuple(Structure(*pair) for pair in self.removed))


BASE = FromScratchJob(BASE_ARCHITECTURE, "base", widths={})
"""The network itself, trained unless its weights are given: what all others are held against."""

Job = TrialJob | FromScratchJob


def job_to_mapping(job: Job) -> dict[str, Any]:
    """JSON-able."""
    return dataclasses.asdict(job)


def job_from_mapping(content: Mapping[str, Any]) -> Job:
    """The inverse of `job_to_mapping`."""
    if "proposal" in content:
        proposal = Proposal(**content["proposal"])
        return TrialJob(content["number"], proposal, content["repeat"])
    return FromScratchJob(**content)


def _suffix(repeat: int) -> str:
    """What names of networks end in that differ in their seeds only."""
    return f"-s{repeat}" if repeat else ""


@dataclass(frozen=True)
class Outcome:
    """A trained and stored architecture.

    flops, params: as certified by fvcore.  Scores are of the task's kind; that of the test split
    was measured once, when the architecture was stored, and decides nothing.
    profile: digest of the shape.  path: folder below the search's own.
    seed: of weights and batches.  equal_compute: whether it trained longer than the others for
        costing less.  images: training images that the whole way to it took, repetitions counted.
    compute: the same in FLOPs, images × FLOPs of the network that was trained on them, one
        forward run each; those before pruning cost as many as the base network.
    weight_bytes, peak_activation_bytes, latency_ms, uncounted, channels: as in Cost; None where not
        worked out.
    details: further measurements, such as the score before and after pruning.
    inexact: groups that were narrowed though others then take other values.
    target: what it was pruned to, such as flops=20%, where the search names targets.
    tried: the proposal behind it, in words.
    """

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    flops: int
    params: int
    validation_score: float
    test_score: float
    profile: str
    path: str
    seed: int = 0
    equal_compute: bool = False
    images: int = 0
    compute: float = 0.0
    weight_bytes: int | None = None
    peak_activation_bytes: int | None = None
    latency_ms: float | None = None
    uncounted: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()
    channels: int | None = None
    target: str = ""
    tried: str = ""

    @property
    def network(self) -> str:
        """Its key without the seed: the name shared with its repetitions."""
        return re.sub(r"-s\d+$", "", self.key)

    @property
    def cost(self) -> Cost:
        """What it costs, as certified when it was stored."""
        return Cost(
            self.flops,
            self.params,
            weight_bytes=self.weight_bytes,
            peak_activation_bytes=self.peak_activation_bytes,
            latency_ms=self.latency_ms,
            uncounted=self.uncounted,
            channels=self.channels,
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Outcome:
        """The inverse of `to_mapping`."""
        return cls(**{**content, "inexact": tuple(content.get("inexact", ()))})


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one job.

    stage: what the job is doing.  step: epochs since the job began, from 1, of `num_steps`.
    images: training images that the job has processed so far, repetitions counted.
    compute: of this epoch alone, images × FLOPs of one forward run of the network at the time.
    time_ms: when the epoch ended, since 1970; the same whenever the record is passed on again.
    seconds: of its phases, see search.system.stopwatch; those of storing and reporting are of the
        epoch before. They do not count when records are compared.
    """

    stage: Stage
    step: int
    num_steps: int
    train_loss: float
    validation_score: float
    learning_rate: float
    sparsity: float | None = None
    images: int = 0
    compute: float = 0.0
    time_ms: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


State = Literal["failed", "stopped early", "infeasible"]


@dataclass(frozen=True)
class Ending:
    """Why a job ended without a network, in one line.

    is_final: whether it would end so again, as a training that diverges does.
    """

    state: State
    reason: str
    is_final: bool = False

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}"

    @property
    def why(self) -> str:
        """The reason; that it is no failure is said where it is none."""
        return self.reason if self.state == "failed" else str(self)


class Observer:
    """Hears of everything that happens to jobs, in the process that drives the study.

    What a subclass does not override, it does nothing about. After a restart a job is started
    again, and its first epochs are all those that it has behind it, which may have been heard of
    before. finished: what came of it, at least one.  scored: so many of `total` parts of a stage
    without epochs, such as the units that an oracle removes, are done.
    """

    def at_once(self, num_jobs: int) -> None:
        """From now on so many jobs are performed at once."""

    def started(self, job: Job) -> None:
        """The job is under way."""

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        """One epoch has ended, or after a restart all that had."""

    def scored(self, job: Job, stage: str, done: int, total: int) -> None:
        """A part of a stage without epochs is done."""

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """The job has come to these networks."""

    def ended(self, job: Job, ending: Ending) -> None:
        """The job has come to nothing."""


class Observers(Observer):
    """Passes everything on to several observers, in their order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def at_once(self, num_jobs: int) -> None:
        for observer in self._observers:
            observer.at_once(num_jobs)

    def started(self, job: Job) -> None:
        for observer in self._observers:
            observer.started(job)

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        for observer in self._observers:
            observer.epochs(job, records)

    def scored(self, job: Job, stage: str, done: int, total: int) -> None:
        for observer in self._observers:
            observer.scored(job, stage, done, total)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        for observer in self._observers:
            observer.finished(job, outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        for observer in self._observers:
            observer.ended(job, ending)


class JobSource(Protocol):
    """Hands out jobs and takes back what came of them."""

    @property
    def is_over(self) -> bool:
        """Whether no job is to come any more, whatever comes of those that were handed out."""

    def next(self) -> Job | None:
        """The next job; None where there is none now, though there may be one later."""

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """Take a result."""

    def ended(self, job: Job, ending: Ending) -> None:
        """Take why there is none."""


class JobList:
    """A source of jobs that are known beforehand."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting = list(jobs)

    def __len__(self) -> int:
        """How many jobs are still to be handed out."""
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        return not self._waiting

    def next(self) -> Job | None:
        return self._waiting.pop(0) if self._waiting else None

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """Nothing waits for the results."""

    def ended(self, job: Job, ending: Ending) -> None:
        """Nothing waits for the results."""
