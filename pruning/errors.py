"""Every error that Espalier raises for people, in one tree.

    EspalierError
    ├── BudgetError               a budget is malformed
    │   └── UnreachableBudgetError    no network of this shape fits; names the nearest cost
    ├── TraceError                the network cannot be traced with this example input
    ├── PlanError                 a plan or a set of widths does not fit the graph
    ├── CriterionError            a criterion or regularizer lacks what it reads (no σBN, say)
    ├── ProfileError              a profile does not fit the network
    ├── ArchitectureError         an architecture file is damaged, unsafe or not reproducible
    ├── ConfigError               a setting is unknown or out of range
    ├── ModelError                a model cannot be found, built or copied
    │   └── WeightsError              trained weights cannot be read, or are another network's
    ├── DataError                 a data set is missing, unreadable or inconsistent
    ├── SearchStateError          a run directory does not hold what it should
    ├── SearchFailedError         every trial of a search failed
    ├── TrainingDivergedError     a loss became infinite or NaN
    ├── StoppedEarlyError         a trial is dominated by others; it is not worth going on
    ├── JobGivenUpError          a task's process died or hung again and again
    ├── DiskFullError             there is no room for a checkpoint or a result
    └── ServiceError              the service cannot start, or cannot be reached, or refuses

Each message says what was expected, what was got and what to do. The command line prints it
as one line, with the page of the documentation that tells more, and exits with status 2.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar


class EspalierError(Exception):
    """Base of every error meant for people.

    page: of the documentation, below docs/, where one tells more; every subclass names or inherits
        one.
    """

    page: ClassVar[str] = ""


class BudgetError(EspalierError):
    """A budget is malformed."""

    page = "how-to/budgets.md"


class UnreachableBudgetError(BudgetError):
    """No widths of this network meet the budget."""


class TraceError(EspalierError):
    """The network cannot be traced with this example input."""

    page = "how-to/own-network.md"


class PlanError(EspalierError):
    """A plan, or a set of widths, does not fit the graph."""

    page = "concepts/channel-graph.md"


class CriterionError(EspalierError):
    """A criterion or a regularizer lacks what it reads."""

    page = "how-to/choosing-a-method.md"


class ProfileError(EspalierError):
    """A width profile does not fit the network."""

    page = "concepts/families.md"


class ArchitectureError(EspalierError):
    """An architecture file is damaged, unsafe or not reproducible."""

    page = "reference/files.md"


class ConfigError(EspalierError):
    """A setting is unknown or out of range.

    field: which one, such as training.epochs; empty where it is not a single one.
    """

    page = "reference/index.md"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ClusterUnreachableError(ConfigError):
    """The Ray cluster that a setting names does not answer for now."""

    page = "how-to/ray-cluster.md"


class ModelError(EspalierError):
    """A model cannot be found, built or copied."""

    page = "how-to/own-network.md"


class WeightsError(ModelError):
    """Trained weights cannot be read, or are another network's."""

    page = "how-to/trained-weights.md"


class DataError(EspalierError):
    """A data set is missing, unreadable or inconsistent."""

    page = "how-to/own-data.md"


class SearchStateError(EspalierError):
    """A run directory does not hold what it should."""

    page = "how-to/resuming.md"


class SearchFailedError(EspalierError):
    """Every trial of a search failed."""

    page = "how-to/resuming.md"


class TrainingDivergedError(EspalierError):
    """A loss became infinite or NaN."""

    page = "how-to/recipes.md"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that it was raised from or beside, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """What an exception says, in one line: its name if it says nothing."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def reason_with_place(error: BaseException) -> str:
    """What people's own code raised, and where: "ValueError: no such file (data.py, line 3)".

    Without a place where the error came through no code but ours and what is installed.
    """
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    own = own_frame((frame.filename, frame.lineno or 0, frame.name) for frame in frames)
    return f"{reason} ({own[0]}, line {own[1]})" if own else reason


def own_frame(frames: Iterable[tuple[str, int, str]]) -> tuple[str, int, str] | None:
    """The innermost frame of people's own code, without the folder of its file; None without any.

    frames: file, line and function of what was running, the innermost last.
    """
    here = Path(__file__).parents[1]
    ours = [here / name for name in ("pruning", "copycat", "mlflow_server", "search")]
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    own = [frame for frame in frames if not _is_within(frame[0], [*installed, *ours])]
    return (Path(own[-1][0]).name, *own[-1][1:]) if own else None


def _is_within(file: str, folders: Iterable[Path]) -> bool:
    return file.startswith("<frozen ") or any(map(Path(file).is_relative_to, folders))


class StoppedEarlyError(EspalierError):
    """A trial is dominated by too many others to be worth going on."""

    page = "how-to/resuming.md"


class JobGivenUpError(EspalierError):
    """A task cannot be got to its end: its process died or hung again and again."""

    page = "how-to/resuming.md"


class LostProcessError(EspalierError):
    """A process that is needed was killed from outside, or did not come up: the next one may."""

    page = "how-to/resuming.md"


class DiskFullError(EspalierError):
    """There is no room for a checkpoint or a result."""

    page = "how-to/resuming.md"


class ServiceError(EspalierError):
    """The service cannot be started as asked, cannot be reached, or refuses a request."""

    page = "how-to/service.md"
