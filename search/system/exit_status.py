"""Exit statuses of the command line, and what its errors end with."""

from __future__ import annotations

import os
import re

from mlflow_server.errors import MlflowServerError, TrackingError
from pruning.errors import ClusterUnreachableError, DiskFullError, EspalierError

EXIT_REFUSED = 2
"""Bad input, or a request that cannot be met."""

EXIT_NOT_NOW = os.EX_TEMPFAIL
"""The same command may succeed later: a disk is full, or MLflow or a cluster away."""

EXIT_INTERRUPTED = 130

NOT_NOW = "not now: "
"""Begins the message of an error that ends with EXIT_NOT_NOW."""

UNFORESEEN = "nobody foresaw this"
"""Part of the message of an error that is a fault of Espalier's."""


def exit_status(error: EspalierError | MlflowServerError) -> int:
    """The status of a process that ends with this error."""
    is_transient = isinstance(error, DiskFullError | ClusterUnreachableError) or (
        isinstance(error, TrackingError) and error.is_transient
    )
    return EXIT_NOT_NOW if is_transient else EXIT_REFUSED


def page_hint(error: EspalierError | MlflowServerError) -> str:
    """ " (docs/PAGE)", which ends the line of an error on the command line; empty for no page."""
    return f" (docs/{error.page})" if error.page else ""


def without_page_hint(line: str) -> str:
    """The line of an error without what `page_hint` has put behind it."""
    return re.sub(r" \(docs/[\w/-]+\.md\)$", "", line)
