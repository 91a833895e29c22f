"""The MLflow side of Espalier: what is recorded of a search, and the server that shows it.

`RunRecorder` is the way to write runs: `connect` gives one for an MLflow store or server,
`BackgroundRecorder` writes to it without making the search wait, `MemoryRecorder` is the fake
for tests. `serve` runs the server, `view_links` opens a search in its pages at views made for it,
`register` makes an architecture a model of its registry.
`schema` lists every name that is written.

MLflow takes a second to import, so it is imported when what needs it is first looked up.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from mlflow_server.background import BackgroundRecorder
from mlflow_server.errors import MlflowServerError, ServeError, TrackingError
from mlflow_server.memory import MemoryRecorder
from mlflow_server.runs import RecordedRun, RunRecorder
from mlflow_server.schema import FIELDS, Field
from mlflow_server.serve import running_server, serve
from mlflow_server.store import artifact_root, store_uri

if TYPE_CHECKING:
    from mlflow_server.registry import Registered, register
    from mlflow_server.tracking import MlflowRecorder, connect
    from mlflow_server.views import Views, view_links

__all__ = [
    "FIELDS",
    "BackgroundRecorder",
    "Field",
    "MemoryRecorder",
    "MlflowRecorder",
    "MlflowServerError",
    "RecordedRun",
    "Registered",
    "RunRecorder",
    "ServeError",
    "TrackingError",
    "Views",
    "artifact_root",
    "connect",
    "register",
    "running_server",
    "serve",
    "store_uri",
    "view_links",
]

_IMPORTED_WHEN_LOOKED_UP = {
    "MlflowRecorder": "mlflow_server.tracking",
    "connect": "mlflow_server.tracking",
    "Registered": "mlflow_server.registry",
    "register": "mlflow_server.registry",
    "Views": "mlflow_server.views",
    "view_links": "mlflow_server.views",
}

# MLflow reads this while it is imported, then reports usage to its makers. Espalier does not,
# unless whoever runs it has decided otherwise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Its notes on creating tables are noise between the lines of a search.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# So are its links to every run that ends.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_LOOKED_UP:
        return getattr(importlib.import_module(_IMPORTED_WHEN_LOOKED_UP[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
