"""What commands do with searches, in a folder of this machine or on a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.commands import result_summary
from search.tasks.score import ACCURACY, Score

if TYPE_CHECKING:
    from search.results.report import Results
    from search.tracking.event_file import Event

_DONE = ("finished", "failed", "stopped early", "infeasible")
"""Ends of a trial."""


@dataclass(frozen=True)
class SearchEntry:
    """A search, or another study, in a list: how it stands.

    kind: search, family or correlation.
    state: queued, running, finished, failed or stopped.  reason: why it failed.
    progress: see search.tracking.search_state.SearchState.progress; None before anything happened.
    ended_ms: since 1970; None until it is over.  score: what its networks are measured by.
    """

    name: str
    state: str
    reason: str
    progress: Mapping[str, Any] | None
    ended_ms: int | None
    kind: str = "search"
    score: Score = ACCURACY

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it, or will."""
        return self.state not in ("queued", "running")

    @property
    def trials_done(self) -> int:
        """However they ended."""
        trials = self.progress["trials"] if self.progress else {}
        return sum(trials.get(end, 0) for end in _DONE)

    @property
    def num_networks(self) -> int:
        """Networks that are trained and stored."""
        return int(self.progress["networks"]) if self.progress else 0

    @property
    def trials_planned(self) -> int:
        """0 if that is not known."""
        return int(self.progress["trials"]["planned"]) if self.progress else 0

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The best network so far, not the base: key, flops, validation_score …"""
        best: Mapping[str, Any] | None = self.progress["best"] if self.progress else None
        return best

    @property
    def base(self) -> Mapping[str, Any] | None:
        """The base network, once it is trained, as `best`."""
        base: Mapping[str, Any] | None = self.progress.get("base") if self.progress else None
        return base

    @property
    def seconds_left(self) -> float | None:
        """None where nobody is at work, or before there is anything to go by."""
        if self.state != "running" or not self.progress:
            return None
        seconds: float | None = self.progress["seconds_left"]
        return seconds

    @property
    def wall_seconds(self) -> Mapping[str, float]:
        """Of all workers by what they did, see search.results.wall_time; empty if not known."""
        return self.progress.get("wall_seconds", {}) if self.progress else {}

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "reason": self.reason,
            "trials_done": self.trials_done,
            "trials_planned": self.trials_planned,
            "score": self.score.to_mapping(),
            "best": None if self.best is None else dict(self.best),
            "base": None if self.base is None else dict(self.base),
            "seconds_left": self.seconds_left,
            "ended_ms": self.ended_ms,
            "wall_seconds": dict(self.wall_seconds),
        }


class StoredNetwork(ABC):
    """A stored architecture that is to be taken along."""

    @property
    @abstractmethod
    def weights(self) -> str:
        """Where its weights are."""

    @property
    @abstractmethod
    def builder(self) -> str:
        """The module of the function that makes its base network."""

    @abstractmethod
    def check(self) -> None:
        """Raises EspalierError if it does not reproduce what is stated of it."""

    @abstractmethod
    def source_code(self) -> str:
        """A Python module that makes it with torch alone."""

    @abstractmethod
    def write(self, form: str, target: Path) -> None:
        """Write it in one of the location's forms; `target` must not exist."""

    @abstractmethod
    def register(self, name: str, alias: str, mlflow_url: str) -> str:
        """Make it a model of MLflow's registry; returns its URI."""


class SearchLocation(ABC):
    """What commands do with searches, wherever they are. Errors are EspalierErrors."""

    forms: tuple[str, ...]
    """In which `StoredNetwork.write` can write."""

    refusal_to_register: str = ""
    """Why `StoredNetwork.register` cannot be; empty if it can."""

    @abstractmethod
    def command(self, name: str, *words: str) -> str:
        """What to type to do something with the search here."""

    @abstractmethod
    def searches(self) -> list[SearchEntry]:
        """All of them, the newest first."""

    @abstractmethod
    def search(self, name: str) -> SearchEntry:
        """One of them."""

    @abstractmethod
    def follow(self, name: str) -> Iterator[Event]:
        """Its events from the beginning on, until it is over or nobody works on it."""

    @abstractmethod
    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        """What a service's processes of it printed; follow: until it is over."""

    @abstractmethod
    def stop(self, name: str) -> SearchEntry:
        """End it early, and wait until it has ended."""

    @abstractmethod
    def results(self, name: str) -> Results:
        """What a finished search found."""

    def print_results(self, name: str, console: Console) -> None:
        """Show people what a finished study came to, and what they can do with it."""
        results = self.results(name)
        result_summary.print_results(results, self.next_steps(name, results), console)

    @abstractmethod
    def report(self, name: str) -> tuple[bytes, Path]:
        """The report's page, and where it is written if nothing else is asked for."""

    @abstractmethod
    def network(self, name: str, trust: tuple[str, ...]) -> StoredNetwork:
        """SEARCH/NAME.  trust: further modules whose code may run."""

    @abstractmethod
    def next_steps(self, name: str, results: Results) -> str:
        """Where a finished search is, and what one can do with it."""
