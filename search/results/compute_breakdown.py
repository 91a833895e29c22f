"""Where the compute of a search went, stage by stage, from its events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from search.results.styles import style_of
from search.results.wall_time import WallTime

BASE, SPARSE, TUNING = "base network", "trials, before pruning", "trials, after pruning"


@dataclass(frozen=True)
class StageCompute:
    """What one kind of training took, over all networks.

    images: training images, repetitions counted.  compute: images × FLOPs of one forward run of the
    network that was trained on them, as it was then.
    seconds: of all workers together, waiting for the first epoch included.
    """

    name: str
    trainings: int
    images: int
    compute: float
    seconds: float


@dataclass(frozen=True)
class ComputeBreakdown:
    """Of a whole search.

    stages: in the order in which they began.
    num_candidates: networks that trials tried, those that were stopped early among them.
    compute_if_full: what the trials would have taken, had each candidate been trained by itself to
        the end: no training that several share, none that is stopped.
    wall_seconds: of all workers by what they did, see search.results.wall_time.
    """

    stages: tuple[StageCompute, ...]
    num_candidates: int
    compute_if_full: float
    wall_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def compute(self) -> float:
        """Of all stages."""
        return sum(stage.compute for stage in self.stages)

    @property
    def compute_of_trials(self) -> float:
        """Of the trials alone."""
        return sum(stage.compute for stage in self.stages if stage.name in (SPARSE, TUNING))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> ComputeBreakdown:
        """The inverse of `to_mapping`."""
        stages = tuple(StageCompute(**stage) for stage in content["stages"])
        return cls(
            stages,
            content["num_candidates"],
            content["compute_if_full"],
            content.get("wall_seconds", {}),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"compute": self.compute}


@dataclass(frozen=True)
class _Epoch:
    """What one epoch took, by itself."""

    stage: str
    images: int
    compute: float
    seconds: float


@dataclass
class _Work:
    """One job, as its events tell of it."""

    name: str
    begun_ms: int
    steps: dict[int, _Epoch] = field(default_factory=dict)
    num_networks: int = 0

    @property
    def is_trial(self) -> bool:
        return self.name == SPARSE

    def row(self, name: str, stages: Collection[str] | None = None) -> StageCompute:
        """What it spent in these stages, by default in all."""
        epochs = [e for e in self.steps.values() if stages is None or e.stage in stages]
        images, compute = sum(e.images for e in epochs), sum(e.compute for e in epochs)
        return StageCompute(name, 1, images, compute, sum(e.seconds for e in epochs))


def compute_breakdown(events: Iterable[Mapping[str, Any]]) -> ComputeBreakdown:
    """From the events of a search, in their order."""
    works: dict[str, _Work] = {}
    wall = WallTime()
    for event in events:
        wall.take(event)
        match event["event"]:
            case "started":
                work = works.setdefault(event["key"], _Work(_name(event["job"]), 0))
                work.begun_ms = event["time_ms"]
            case "epochs" if event["key"] in works:
                _count(works[event["key"]], event["records"])
            case "finished" if event["key"] in works:
                works[event["key"]].num_networks = len(event["outcomes"])
    return replace(_breakdown(works.values()), wall_seconds=wall.seconds)


def _name(job: Mapping[str, Any]) -> str:
    if "proposal" in job:
        return SPARSE
    return BASE if job["origin"] == "base" else style_of(job["origin"]).name


def _count(work: _Work, records: Iterable[Mapping[str, Any]]) -> None:
    """Each epoch once, however often it is told of; their images are those since the job began."""
    for record in records:
        step = record["step"]
        if step in work.steps:
            continue
        before = sum(epoch.images for epoch in work.steps.values())
        seconds = max(0, record.get("time_ms", 0) - work.begun_ms) / 1000
        work.begun_ms = max(work.begun_ms, record.get("time_ms", 0))
        images, compute = record.get("images", 0) - before, record.get("compute", 0.0)
        work.steps[step] = _Epoch(record["stage"], images, compute, seconds)


_AFTER = frozenset({"judging", "fine-tuning"})
_BEFORE = frozenset({"sparse training", "training", "iterative pruning", "settling"})
"""Stages of a trial."""


def _breakdown(works: Iterable[_Work]) -> ComputeBreakdown:
    rows: dict[str, list[StageCompute]] = {}
    num_candidates, whole, tuning = 0, 0.0, 0.0
    for work in works:
        parts = [work.row(work.name)]
        if work.is_trial:
            before, after = parts = [work.row(SPARSE, _BEFORE), work.row(TUNING, _AFTER)]
            num_candidates += max(1, work.num_networks)
            whole, tuning = max(whole, before.compute), tuning + after.compute
        for part in parts:
            if part.images:
                rows.setdefault(part.name, []).append(part)
    stages = tuple(
        StageCompute(
            name,
            len(parts),
            sum(part.images for part in parts),
            sum(part.compute for part in parts),
            sum(part.seconds for part in parts),
        )
        for name, parts in rows.items()
    )
    return ComputeBreakdown(stages, num_candidates, num_candidates * whole + tuning)
