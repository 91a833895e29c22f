"""With which name and password a service and its searches reach MLflow."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pruning.errors import ServiceError

PASSWORD_FILE = "mlflow-password"
"""In the folder of all searches, for the operator alone: the password of MLflow's user `admin`."""

_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
_USERS_FILE = "basic_auth.db"


@dataclass(frozen=True)
class Login:
    """A name and its password."""

    name: str
    password: str = field(repr=False)

    @classmethod
    def of_environment(cls) -> Login | None:
        """As MLflow's own clients read it; None if it is not set."""
        name, password = os.environ.get(_USER, ""), os.environ.get(_PASSWORD, "")
        return cls(name, password) if name and password else None

    @classmethod
    def kept(cls, runs: Path) -> Login:
        """That of the service's own MLflow server, made at its first start, or the operator's.

        ServiceError if the server has had another service's, or a person's, password before.
        """
        given = os.environ.get(_ADMIN_PASSWORD, "")
        file = runs / PASSWORD_FILE
        if not given and not file.exists() and (runs / _USERS_FILE).exists():
            raise ServiceError(
                f"the MLflow server of {runs} has users already: set {_ADMIN_PASSWORD} to the "
                "password of its user admin"
            )
        return cls("admin", given or _kept(file))

    @property
    def environment(self) -> dict[str, str]:
        """For processes that log to the server."""
        return {_USER: self.name, _PASSWORD: self.password}

    @property
    def pair(self) -> tuple[str, str]:
        """For HTTP's basic authentication."""
        return self.name, self.password

    def admit(self) -> None:
        """Let a server that this process starts know it as that of its administrator."""
        os.environ[_ADMIN_PASSWORD] = self.password  # the server takes it from nowhere else


def _kept(file: Path) -> str:
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(32))
        return file.read_text().strip()
    except OSError as error:
        raise ServiceError(f"cannot keep a password in {file}: {error.strerror}") from error
