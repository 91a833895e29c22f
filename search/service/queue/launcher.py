"""The interface by which the process of a search is started, watched and ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.system.exit_status import (
    EXIT_LOST,
    EXIT_NOT_NOW,
    EXIT_REFUSED,
    NOT_NOW,
    THIS_TIME,
    UNFORESEEN,
    without_page_hint,
)

_REFUSAL = "espalier: "


@dataclass(frozen=True)
class ProcessExit:
    """How a process has ended.

    cause: in a few words.  refusal: the line by which the command line refuses; empty if it did
    not, but was killed, say.  is_temporary: the reason of the refusal may be over later, as when
    a disk is full or MLflow is away.
    """

    cause: str
    refusal: str = ""
    is_temporary: bool = False


class Launcher(ABC):
    """Starts `espalier resume` for a search whose settings lie in its folder, somewhere."""

    @abstractmethod
    def launch(self, search_id: str, attempt: int) -> str:
        """Start it, or find it running, and return a handle: a text that outlives the service.

        attempt: a number that is another one at each launch of this search.
        Raises ServiceError if nothing can be started for now.
        """

    @abstractmethod
    def poll(self, handle: str) -> ProcessExit | None:
        """None while it runs. Raises ServiceError if that cannot be found out for now."""

    @abstractmethod
    def interrupt(self, handle: str) -> None:
        """Ask it to end as by Ctrl-C; nothing if it has."""

    @abstractmethod
    def kill(self, handle: str) -> None:
        """End it at once; nothing if it has."""


def resume_arguments(
    search_id: str, runs: Path, mlflow_url: str, flags: Sequence[str]
) -> list[str]:
    """What follows the interpreter on the command line of a search. flags: further ones."""
    tracking = ("--mlflow-url", mlflow_url) if mlflow_url else ()
    return ["-m", "search.cli", "resume", search_id, "--runs", str(runs), *tracking, *flags]


def process_exit(cause: str, output: str, status: int | None) -> ProcessExit:
    """How a process has ended that printed this output.

    status: None if nobody knows, as of a process that an earlier service began.
    """
    is_told = status in (None, EXIT_REFUSED, EXIT_NOT_NOW, EXIT_LOST)
    refusal = last_refusal(output) if is_told else ""
    if refusal.startswith(THIS_TIME):
        return ProcessExit(refusal.removeprefix(THIS_TIME))
    is_temporary = status == EXIT_NOT_NOW or refusal.startswith(NOT_NOW)
    return ProcessExit(cause, refusal.removeprefix(NOT_NOW), is_temporary=is_temporary)


def last_refusal(text: str) -> str:
    """The last line, if it is one by which the command line refuses."""
    lines = text.strip().splitlines()
    last = lines[-1] if lines else ""
    is_refusal = last.startswith(_REFUSAL) and UNFORESEEN not in last
    return without_page_hint(last.removeprefix(_REFUSAL)) if is_refusal else ""
