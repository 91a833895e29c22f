"""How the process that performs a search is started, and known to be alive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.system.exit_status import EXIT_NOT_NOW, EXIT_REFUSED, NOT_NOW, UNFORESEEN

_REFUSAL = "espalier: "


@dataclass(frozen=True)
class Gone:
    """A process that is no more.

    why: in a few words.  refusal: the line by which the command line refuses; empty if it did
    not, but was killed, say.  is_passing: what it refuses for may be over later, as when a disk
    is full or MLflow is away.
    """

    why: str
    refusal: str = ""
    is_passing: bool = False


class Launcher(ABC):
    """Starts `espalier resume` for a search whose settings lie in its folder, somewhere."""

    @abstractmethod
    def launch(self, search_id: str, attempt: int) -> str:
        """Start it, or find it running, and return a handle: a text that outlives the service.

        attempt: a number that is another one at each launch of this search.
        Raises ServiceError if nothing can be started for now.
        """

    @abstractmethod
    def poll(self, handle: str) -> Gone | None:
        """None while it runs. Raises ServiceError if that cannot be found out for now."""

    @abstractmethod
    def interrupt(self, handle: str) -> None:
        """Ask it to end as by Ctrl-C; nothing if it has."""

    @abstractmethod
    def kill(self, handle: str) -> None:
        """End it at once; nothing if it has."""


def arguments(search_id: str, runs: Path, mlflow_url: str, further: Sequence[str]) -> list[str]:
    """What follows the interpreter on the command line of a search."""
    tracking = ("--mlflow-url", mlflow_url) if mlflow_url else ()
    return ["-m", "search.cli", "resume", search_id, "--runs", str(runs), *tracking, *further]


def gone(why: str, printed: str, status: int | None) -> Gone:
    """What a process that is no more leaves: it printed this, and ended with this status.

    status: None if nobody knows, as of one that an earlier service began.
    """
    refusal = refusal_in(printed) if status in (None, EXIT_REFUSED, EXIT_NOT_NOW) else ""
    is_passing = status == EXIT_NOT_NOW or refusal.startswith(NOT_NOW)
    return Gone(why, refusal.removeprefix(NOT_NOW), is_passing=is_passing)


def refusal_in(text: str) -> str:
    """The last line, if it is one by which the command line refuses."""
    lines = text.strip().splitlines()
    last = lines[-1] if lines else ""
    is_refusal = last.startswith(_REFUSAL) and UNFORESEEN not in last
    return last.removeprefix(_REFUSAL) if is_refusal else ""
