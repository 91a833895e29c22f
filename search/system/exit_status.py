"""With which status the command line ends, for those who start it."""

from __future__ import annotations

import os

from mlflow_server.errors import MlflowServerError, TrackingError
from pruning.errors import ClusterUnreachableError, DiskFullError, EspalierError

EXIT_REFUSED = 2
"""What was asked for cannot be done."""

EXIT_NOT_NOW = os.EX_TEMPFAIL
"""It cannot be done now: the same command may succeed later."""

EXIT_INTERRUPTED = 130

NOT_NOW = "not now: "
"""Before what is said of it, for those who cannot know the status."""

UNFORESEEN = "nobody foresaw this"
"""In what is said of an error that may come again or not."""


def exit_status(error: EspalierError | MlflowServerError) -> int:
    """Of a process that ends with this error."""
    is_passing = isinstance(error, DiskFullError | ClusterUnreachableError) or (
        isinstance(error, TrackingError) and error.is_transient
    )
    return EXIT_NOT_NOW if is_passing else EXIT_REFUSED
