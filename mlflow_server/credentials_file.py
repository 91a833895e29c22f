"""The name and password of an MLflow server, handed to another process by a file.

What a cluster's jobs find in their environment stands on its dashboard and in its records, for all
who may look: there a variable names the file, and only who may read that learns the password.
"""

import json
import os
import tempfile
from pathlib import Path

from mlflow_server.errors import TrackingError

CREDENTIALS_VARIABLE = "ESPALIER_MLFLOW_CREDENTIALS"
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
"""Where MLflow's own client looks for them."""


def write_credentials(file: Path, name: str, password: str) -> None:
    """Keep them in a file that its owner alone can read. OSError if it cannot be written."""
    descriptor, unfinished = tempfile.mkstemp(prefix=file.name, dir=file.parent)  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump({USER: name, PASSWORD: password}, stream)
        os.replace(unfinished, file)
    except OSError:
        Path(unfinished).unlink(missing_ok=True)
        raise


def take_credentials() -> None:
    """Give MLflow's client in this process what the file says that the environment names, if any.

    TrackingError if it cannot be read: its nodes share a cluster's folders, and the user.
    """
    file = os.environ.get(CREDENTIALS_VARIABLE, "")
    if not file:
        return
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        os.environ.update({name: str(found[name]) for name in (USER, PASSWORD)})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrackingError(
            f"cannot read MLflow's password from {file} ({CREDENTIALS_VARIABLE}): {error}; the "
            "process of a search reads the files of its service, under the same user"
        ) from error
