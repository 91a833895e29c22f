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
    network that was trained on them; of a network that shrinks while it trains, at most that; of
    shapes that are judged on the way, as if they cost what the networks of their trial do.
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


@dataclass
class _Work:
    """One job, as its events tell of it."""

    name: str
    begun_ms: int
    steps: dict[int, tuple[str, int, float]] = field(default_factory=dict)
    flops: list[int] = field(default_factory=list)

    @property
    def is_trial(self) -> bool:
        return self.name == SPARSE

    @property
    def stages(self) -> frozenset[str]:
        """That it has been through."""
        return frozenset(stage for stage, _, _ in self.steps.values())

    def images_of(self, stages: Collection[str]) -> int:
        """Training images in these stages."""
        return sum(images for stage, images, _ in self.steps.values() if stage in stages)

    def seconds_of(self, stages: Collection[str]) -> float:
        """Time that its worker spent in these stages."""
        return sum(seconds for stage, _, seconds in self.steps.values() if stage in stages)


def compute_breakdown(events: Iterable[Mapping[str, Any]]) -> ComputeBreakdown:
    """From the events of a search, in their order."""
    works: dict[str, _Work] = {}
    wall, base_flops = WallTime(), 0
    for event in events:
        wall.take(event)
        match event["event"]:
            case "launched":
                base_flops = event["base"]["flops"]
            case "started":
                work = works.setdefault(event["key"], _Work(_name(event["job"]), 0))
                work.begun_ms = event["time_ms"]
            case "epochs" if event["key"] in works:
                _count(works[event["key"]], event["records"])
            case "finished" if event["key"] in works:
                works[event["key"]].flops = [found["flops"] for found in event["outcomes"]]
    return replace(_breakdown(list(works.values()), base_flops), wall_seconds=wall.seconds)


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
        before = sum(images for _, images, _ in work.steps.values())
        seconds = max(0, record.get("time_ms", 0) - work.begun_ms) / 1000
        work.begun_ms = max(work.begun_ms, record.get("time_ms", 0))
        work.steps[step] = (record["stage"], record.get("images", 0) - before, seconds)


_AFTER = frozenset({"judging", "fine-tuning"})
_OF_SMALLER = frozenset({"training"})
"""Stages of a trial whose network is smaller than the base network, all the while."""


def _breakdown(works: list[_Work], base_flops: int) -> ComputeBreakdown:
    rows: dict[str, list[StageCompute]] = {}

    def add(name: str, work: _Work, stages: Collection[str], flops: float) -> float:
        images = work.images_of(stages)
        if images:
            row = StageCompute(name, 1, images, images * flops, work.seconds_of(stages))
            rows.setdefault(name, []).append(row)
        return images * flops

    num_candidates, tuning = 0, 0.0
    for work in works:
        mean_flops = sum(work.flops) / len(work.flops) if work.flops else base_flops
        if not work.is_trial:
            add(work.name, work, work.stages, mean_flops)
            continue
        num_candidates += max(1, len(work.flops))
        before = work.stages - _AFTER
        add(SPARSE, work, before - _OF_SMALLER, base_flops)
        add(SPARSE, work, before & _OF_SMALLER, mean_flops)
        tuning += add(TUNING, work, _AFTER, mean_flops)
    trials = [work for work in works if work.is_trial]
    whole = max((work.images_of(work.stages - _AFTER) for work in trials), default=0)
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
    return ComputeBreakdown(stages, num_candidates, num_candidates * whole * base_flops + tuning)
