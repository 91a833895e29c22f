"""Every error that this package raises for people to read.

    MlflowServerError
    ├── TrackingError    a run could not be recorded, or its store could not be opened
    └── ServeError       the MLflow server could not be started, or ended by itself

Each message is one line that says what was expected, what was found and what to do.
"""

from typing import ClassVar


class MlflowServerError(Exception):
    """Base of every error of this package; its text is one line.

    page: of the documentation, below docs/, where one tells more; empty for none.
    """

    page: ClassVar[str] = ""


class TrackingError(MlflowServerError):
    """A run could not be recorded, or the place where runs are kept could not be opened.

    `is_transient` is true where the same call may succeed later (a server that does not
    answer, a locked database) and false where repeating it cannot help.
    """

    page = "how-to/mlflow.md"

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class ServeError(MlflowServerError):
    """The MLflow server could not be started, or ended without being asked to."""

    page = "how-to/mlflow.md"
