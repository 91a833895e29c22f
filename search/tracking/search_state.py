"""How a search stands, told from the events in its folder while it runs or afterwards.

Whoever reads them, the service or a terminal, needs neither torch nor Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.results.wall_time import WallTime
from search.tasks.score import ACCURACY, Score
from search.tracking.epoch_count import EpochCount
from search.tracking.event_file import ENDS, Event
from search.trials.pareto import Front, Hypervolume, Reference, best


@dataclass(frozen=True)
class NetworkSummary:
    """A network that was found, as far as a front needs it."""

    key: str
    origin: str
    flops: int
    params: int
    validation_score: float


@dataclass
class _Work:
    """One job that is under way, or was; order: of its beginning."""

    order: int
    is_trial: bool
    state: str = "running"
    stage: str = "starting"
    images: int = 0
    validation_score: float | None = None


@dataclass
class SearchState:
    """Everything the events told so far, in counts that each of them keeps up to date."""

    kind: str = "search"
    num_trials: int = 0
    score: Score = ACCURACY
    lines: list[str] = field(default_factory=list)
    end: Event | None = None
    networks: dict[str, NetworkSummary] = field(default_factory=dict)
    _work: dict[str, _Work] = field(default_factory=dict)
    _running: dict[str, _Work] = field(default_factory=dict)
    _trials: Counter[str] = field(default_factory=Counter)
    _images: int = 0
    _launched_ms: int = 0
    _spent_ms: int = 0
    _now_ms: int = 0
    _epochs: EpochCount = field(default_factory=EpochCount)
    _reference: Mapping[str, float] | None = None
    _volume: Hypervolume = field(default_factory=lambda: Hypervolume(None, ACCURACY))
    _front: Front[NetworkSummary] = field(default_factory=lambda: Front(ACCURACY))
    _best: NetworkSummary | None = None
    _base: NetworkSummary | None = None
    _wall: WallTime = field(default_factory=WallTime)

    def take(self, event: Event) -> None:
        """Let an event count; the same one twice counts once."""
        kind = event["event"]
        self._wall.take(event)
        if kind == "launched":
            self._spent_ms += max(0, self._now_ms - self._launched_ms)
        self._now_ms = int(event["time_ms"])
        if kind in ENDS:
            self.end = event
            return
        match kind:
            case "launched":
                self._launch(event)
            case "expected":
                self._epochs.expect(event["epochs"])
            case "started":
                self._enter(event["key"], "running", is_trial="proposal" in event["job"])
            case "epochs":
                self._count(event)
            case "scored":
                self._of(event).stage = f"{event['stage']} {event['done']} of {event['total']}"
            case "finished":
                self._finish(event)
            case "ended":
                self._enter(event["key"], event["state"])
                self._epochs.settle(event["key"], is_finished=False)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able: everything that events to come may change."""
        return {
            "kind": self.kind,
            "num_trials": self.num_trials,
            "score": self.score.to_mapping(),
            "lines": self.lines,
            "end": self.end,
            "networks": [list(vars(network).values()) for network in self.networks.values()],
            "work": {key: list(vars(work).values())[1:] for key, work in self._work.items()},
            "times": [self._launched_ms, self._spent_ms, self._now_ms],
            "epochs": self._epochs.to_mapping(),
            "reference": self._reference,
            "wall": self._wall.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> SearchState:
        """The inverse of `to_mapping`; LookupError, TypeError or ValueError if it is none."""
        networks = [NetworkSummary(*values) for values in content["networks"]]
        state = cls(
            content["kind"],
            content["num_trials"],
            Score.from_mapping(content["score"]),
            content["lines"],
            content["end"],
            {network.key: network for network in networks},
            _epochs=EpochCount.from_mapping(content["epochs"]),
            _reference=content["reference"],
            _wall=WallTime.from_mapping(content["wall"]),
        )
        state._launched_ms, state._spent_ms, state._now_ms = content["times"]
        for order, (key, values) in enumerate(content["work"].items()):
            work = state._work[key] = _Work(order, *values)
            state._trials[work.state] += work.is_trial
            state._images += work.images
            if work.state == "running":
                state._running[key] = work
        state._compare_all()
        return state

    def _of(self, event: Event) -> _Work:
        key = event["key"]
        return self._work[key] if key in self._work else self._enter(key, "running")

    def _enter(self, key: str, state: str, *, is_trial: bool = False) -> _Work:
        """Let a job be in this state; is_trial: of one that is new."""
        is_new = key not in self._work
        work = self._work.setdefault(key, _Work(len(self._work), is_trial))
        if work.is_trial:
            self._trials[work.state] -= not is_new
            self._trials[state] += 1
        work.state = state
        if state == "running":
            self._running[key] = work
        else:
            self._running.pop(key, None)
        return work

    def _launch(self, event: Event) -> None:
        self.end = None
        self.lines = list(event["lines"])
        self.num_trials = event["trials"]
        self.kind, self._launched_ms = event.get("kind", "search"), self._now_ms
        self.score = Score.from_mapping(event.get("score"))
        self._reference = event.get("reference")
        self._compare_all()
        self._epochs.begin(self._now_ms / 1000)
        for key in list(self._running):
            self._enter(key, "waiting")

    def _compare_all(self) -> None:
        """Hold the networks that are known against each other anew."""
        corner = Reference(**self._reference) if self._reference else None
        self._volume, self._front = Hypervolume(corner, self.score), Front(self.score)
        self._best = self._base = None
        for network in self.networks.values():
            self._compare(network)

    def _compare(self, network: NetworkSummary) -> None:
        is_base = network.origin == "base"
        if is_base:
            self._base = self._base or network
        else:
            self._volume.add(network)
            self._front.add(network)
        if not is_base or self.kind == "correlation":
            rivals = [network] if self._best is None else [self._best, network]
            self._best = best(rivals, self.score)

    def _count(self, event: Event) -> None:
        work, records = self._of(event), event["records"]
        record = records[-1]
        is_replay = len(records) > 1
        self._epochs.count(event["key"], record["step"], record["num_steps"], is_replay=is_replay)
        work.stage, work.validation_score = record["stage"], record["validation_score"]
        new = max(0, record.get("images", 0) - work.images)
        work.images += new
        self._images += new

    def _finish(self, event: Event) -> None:
        self._enter(event["key"], "finished")
        self._epochs.settle(event["key"], is_finished=True)
        for outcome in event["outcomes"]:
            names = ("key", "origin", "flops", "params", "validation_score")
            network = NetworkSummary(**{name: outcome[name] for name in names})
            before = self.networks.get(network.key)
            self.networks[network.key] = network
            if before is None:
                self._compare(network)
            elif before != network:
                self._compare_all()

    @property
    def front(self) -> tuple[NetworkSummary, ...]:
        """The smaller networks that no other one dominates, by rising FLOPs."""
        return self._front.points

    @property
    def num_epochs(self) -> int:
        """Epochs that are done, over all jobs."""
        return self._epochs.done

    @property
    def seconds_left(self) -> float | None:
        """By the pace since the last launch; None before there is anything to go by."""
        return None if self.end is not None else self._epochs.seconds_left(self._now_ms / 1000)

    def progress(self) -> dict[str, Any]:
        """JSON-able, for people who wait: see the service's description of `Progress`."""
        trials = {"planned": self.num_trials, "finished": 0, "running": 0, "waiting": 0}
        trials |= {"failed": 0, "stopped early": 0, "infeasible": 0}
        trials |= {state: self._trials[state] for state in trials if state != "planned"}
        running = sorted(self._running.items(), key=lambda pair: pair[1].order)
        return {
            "trials": trials,
            "networks": len(self.networks),
            "epochs": self.num_epochs,
            "expected_epochs": self.num_epochs + (0 if self.end else self._epochs.remaining),
            "best": None if self._best is None else vars(self._best),
            "base": None if self._base is None else vars(self._base),
            "hypervolume": self._volume.value,
            "images": self._images,
            "seconds_spent": (self._spent_ms + self._now_ms - self._launched_ms) / 1000,
            "seconds_left": self.seconds_left,
            "wall_seconds": self._wall.seconds,
            "running": [
                {
                    "key": key,
                    "stage": work.stage,
                    "step": self._epochs.steps(key)[0],
                    "num_steps": self._epochs.steps(key)[1],
                    "validation_score": work.validation_score,
                }
                for key, work in running
            ],
        }
