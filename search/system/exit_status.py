"""Exit statuses of the command line."""

from __future__ import annotations

import os

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
