"""Exit statuses of the command line, and what its errors end with."""

from __future__ import annotations

import os
import re

from mlflow_server.errors import MlflowServerError, TrackingError
from pruning.errors import ClusterUnreachableError, DiskFullError, EspalierError, LostProcessError

EXIT_REFUSED = 2
"""Bad input, or a request that cannot be met."""

EXIT_NOT_NOW = os.EX_TEMPFAIL
"""The same command may succeed later: a disk is full, or MLflow or a cluster away."""

EXIT_LOST = os.EX_OSERR
"""A process that is needed was killed, say: the same command may succeed, but need not ever."""

EXIT_INTERRUPTED = 130

NOT_NOW, THIS_TIME = "not now: ", "this time: "
"""Begin the messages of errors that end with EXIT_NOT_NOW and EXIT_LOST."""

UNFORESEEN = "nobody foresaw this"
"""Part of the message of an error that is a fault of Espalier's."""


def exit_status(error: EspalierError | MlflowServerError) -> int:
    """The status of a process that ends with this error."""
    if isinstance(error, LostProcessError):
        return EXIT_LOST
    is_transient = isinstance(error, DiskFullError | ClusterUnreachableError) or (
        isinstance(error, TrackingError) and error.is_transient
    )
    return EXIT_NOT_NOW if is_transient else EXIT_REFUSED


def may_pass(error: EspalierError | MlflowServerError) -> bool:
    """Whether the same command may succeed another time."""
    return exit_status(error) != EXIT_REFUSED


def in_a_line(error: EspalierError | MlflowServerError) -> str:
    """What the command line says of an error, and the page of the documentation behind it."""
    begin = {EXIT_NOT_NOW: NOT_NOW, EXIT_LOST: THIS_TIME}.get(exit_status(error), "")
    return f"{begin}{error}{page_hint(error)}"


def page_hint(error: EspalierError | MlflowServerError) -> str:
    """ " (docs/PAGE)", which ends the line of an error on the command line; empty for no page."""
    return f" (docs/{error.page})" if error.page else ""


def without_page_hint(line: str) -> str:
    """The line of an error without what `page_hint` has put behind it."""
    return re.sub(r" \(docs/[\w/-]+\.md\)$", "", line)
