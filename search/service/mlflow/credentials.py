"""The name and password with which a service and its searches reach MLflow."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_server.credentials_file import (
    CREDENTIALS_VARIABLE,
    PASSWORD,
    USER,
    write_credentials,
)
from pruning.errors import ServiceError

PASSWORD_FILE = "mlflow-password"
"""In the folder of all searches, for the operator alone: the password of MLflow's user `admin`."""

CREDENTIALS_FILE = "mlflow-credentials"
"""In the same folder, for the processes of searches: how they reach MLflow."""

_ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
_USERS_FILE = "basic_auth.db"


@dataclass(frozen=True)
class MlflowCredentials:
    """A name and its password."""

    name: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> MlflowCredentials | None:
        """As MLflow's own clients read it; None if it is not set."""
        name, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
        return cls(name, password) if name and password else None

    @classmethod
    def of_own_server(cls, runs: Path) -> MlflowCredentials:
        """Those of the service's own MLflow server: the operator's, or made at its first start.

        ServiceError if the server has users already and nobody has named the password.
        """
        password = os.environ.get(_ADMIN_PASSWORD, "")
        file = runs / PASSWORD_FILE
        if not password and not file.exists() and (runs / _USERS_FILE).exists():
            raise ServiceError(
                f"the MLflow server of {runs} has users already: set {_ADMIN_PASSWORD} to the "
                "password of its user admin"
            )
        return cls("admin", password or _stored_password(file))

    def keep_for_searches(self, runs: Path) -> None:
        """Let the processes of searches read it, and nobody else. ServiceError if it cannot be."""
        file = runs / CREDENTIALS_FILE
        try:
            write_credentials(file, self.name, self.password)
        except OSError as error:
            raise ServiceError(f"cannot keep a password in {file}: {error.strerror}") from error

    @property
    def basic_auth(self) -> tuple[str, str]:
        """For HTTP's basic authentication."""
        return self.name, self.password

    def set_admin_password(self) -> None:
        """Make this the administrator's password of a server that this process starts."""
        os.environ[_ADMIN_PASSWORD] = self.password  # the server takes it from nowhere else


def _stored_password(file: Path) -> str:
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(32))
        return file.read_text().strip()
    except OSError as error:
        raise ServiceError(f"cannot keep a password in {file}: {error.strerror}") from error


def variables_of_searches(runs: Path) -> dict[str, str]:
    """What tells a search where to read the credentials; it may be shown to everybody."""
    return {CREDENTIALS_VARIABLE: str(runs / CREDENTIALS_FILE)}
