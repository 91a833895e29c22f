"""Ray and MLflow's server, started as searches and `espalier ui` do, and ended again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_server.errors import MlflowServerError
from mlflow_server.serve import running_server
from pruning.errors import EspalierError
from pruning.lazy_imports import lazy_modules
from search.diagnosis.finding import Finding

if TYPE_CHECKING:
    from search.scheduling import ray_executor
else:
    (ray_executor,) = lazy_modules("search.scheduling.ray_executor")

_MEND = "mend what it says; espalier doctor names what else is wrong"


def start_ray() -> Finding:
    """A Ray of its own, with a worker that does something."""
    began = time.monotonic()
    try:
        ray_executor.start_on_trial()
    except EspalierError as error:
        return Finding("Ray", "does not start", "problem", str(error), _MEND)
    return Finding("Ray", f"started a worker within {time.monotonic() - began:.0f} s")


def start_mlflow() -> Finding:
    """MLflow's server with a new store in a temporary folder."""
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="espalier-") as folder,
            running_server(Path(folder), port=0, may_be_new=True),
        ):
            found = f"its server answered within {time.monotonic() - began:.0f} s"
    except (MlflowServerError, OSError) as error:
        return Finding("MLflow's server", "does not start", "problem", str(error), _MEND)
    return Finding("MLflow's server", found)
