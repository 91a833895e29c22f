"""What a server is started with: where its records and files are, and who may read them.

Everything that can be found wrong is found before MLflow is started, which would take long to
notice and many lines to say it. A password reaches the server through its environment only: the
arguments of a process are shown to everyone on its machine.
"""

import importlib.util
import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_server.errors import ServeError, TrackingError
from mlflow_server.store import artifact_root, database_path, store_uri, why_not_a_store

CONNECT_SECONDS = 5
# What each beginning of a URL stands for; the first is what MLflow's own packages bring. Left to
# SQLAlchemy, the driver of a plain postgresql:// would depend on its version.
_DRIVERS = {
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
    "postgresql+psycopg": "postgresql+psycopg",
}
_PACKAGES = {"postgresql+psycopg2": "psycopg2-binary", "postgresql+psycopg": "'psycopg[binary]'"}
_S3 = "s3://"
_USERS = "basic_auth.db"  # MLflow's own name for it, in the folder where the server runs
_KEY = "mlflow-auth.key"
_ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
_SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"
_AUTH_CONFIG = "MLFLOW_AUTH_CONFIG_PATH"
_OWN_AUTH_CONFIG = Path(__file__).with_name("auth.ini")
_LEAST_PASSWORD = 12  # characters, MLflow's own rule
# Settings for MLflow that are meant for the server, and when they are.
_AUTH_SETTINGS = (_SECRET_KEY, "MLFLOW_AUTH_")
_S3_SETTINGS = ("MLFLOW_S3_", "MLFLOW_BOTO_")
_NETWORK_SETTINGS = ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")


@dataclass(frozen=True)
class Deployment:
    """One server: what it shows, where it listens, and whether it asks for a password.

    store: the folder of searches; with `database` only the server's own files lie there.
    database: the URL of a PostgreSQL database in place of the folder's own; it may hold a
    password.  artifacts: an s3:// URL or a folder in place of the folder's own, for new files.
    may_be_new: whether an empty store is made where there is none.
    """

    store: Path
    host: str
    port: int
    database: str | None = field(default=None, repr=False)
    artifacts: str | None = None
    has_auth: bool = False
    may_be_new: bool = False

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach it."""
        try:
            return self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def prepare(deployment: Deployment) -> None:
    """Make what the server needs; ServeError says in one line what it cannot be started with."""
    if deployment.is_public and not deployment.has_auth:
        raise ServeError(
            f"a server without passwords listens on this machine only (127.0.0.1), "
            f"not on {deployment.host!r}: turn authentication on (--auth)"
        )
    if deployment.database is None:
        if deployment.may_be_new:
            _make_folder(deployment.store)
        _require_store(deployment.store, may_be_new=deployment.may_be_new)
    else:
        _make_folder(deployment.store)
        _require_postgresql(deployment.database)
    if deployment.artifacts is not None:
        _require_artifacts(deployment.artifacts)
    if deployment.has_auth:
        _require_admin(deployment.store)


def command_arguments(deployment: Deployment) -> list[str]:
    """The arguments of `mlflow server`, without any password."""
    return [
        *("--artifacts-destination", _artifacts_of(deployment)),
        *("--host", deployment.host),
        *("--port", str(deployment.port)),
        *("--workers", "1"),
        *(("--app-name", "basic-auth") if deployment.has_auth else ()),
    ]


def environment(deployment: Deployment) -> dict[str, str]:
    """This process's environment, where only the settings named here reach MLflow.

    Settings made for MLflow's clients, or for another server, could move the runs' files or
    open the server to others. Job execution alone would cost two gigabytes of memory.
    """
    wanted: tuple[str, ...] = ()
    if deployment.has_auth:
        wanted += _AUTH_SETTINGS
    if deployment.is_public:
        wanted += _NETWORK_SETTINGS
    if (deployment.artifacts or "").startswith(_S3):
        wanted += _S3_SETTINGS
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lstrip("_").startswith("MLFLOW_") or name.startswith(wanted)
    }
    if deployment.has_auth:
        kept[_SECRET_KEY] = kept.get(_SECRET_KEY) or _key(deployment.store)
        kept[_AUTH_CONFIG] = kept.get(_AUTH_CONFIG) or str(_OWN_AUTH_CONFIG)
    return kept | {
        "MLFLOW_BACKEND_STORE_URI": (
            store_uri(deployment.store)
            if deployment.database is None
            else _with_driver(deployment.database)
        ),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def without_password(text: str, deployment: Deployment) -> str:
    """The text, in which the database's password, as written or decoded, is `***`."""
    password = urlsplit(deployment.database or "").password
    for secret in {password, unquote(password)} if password else ():
        text = text.replace(secret, "***")
    return text


def _artifacts_of(deployment: Deployment) -> str:
    if deployment.artifacts is None:
        return str(artifact_root(deployment.store))
    is_folder = not deployment.artifacts.startswith(_S3)
    return str(Path(deployment.artifacts).resolve()) if is_folder else deployment.artifacts


def _require_store(store: Path, *, may_be_new: bool) -> None:
    database = database_path(store)
    try:
        store_uri(store)
    except TrackingError as error:
        raise ServeError(str(error)) from error
    if not database.exists():
        if may_be_new:
            return
        raise ServeError(
            f"{store} holds no mlflow.db, so no search was recorded there: "
            "run a search first, or name the folder that one wrote to"
        )
    problem = why_not_a_store(database)
    if problem is not None:
        raise ServeError(f"{database} is not an MLflow database: {problem}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"cannot make the folder {folder}: {error}") from error


def _with_driver(url: str) -> str:
    """The URL as SQLAlchemy reads it in every version; ServeError for another database."""
    scheme, separator, place = url.partition("://")
    if not separator or scheme not in _DRIVERS:
        shown = scheme if separator else "another form"
        raise ServeError(f"a database is postgresql://USER@HOST/NAME, got {shown!r}")
    return f"{_DRIVERS[scheme]}://{place}"


def _require_postgresql(url: str) -> None:
    """ServeError unless the database answers, in seconds; MLflow would try for minutes."""
    url = _with_driver(url)
    scheme = url.partition(":")[0]
    _require_package(scheme.partition("+")[2], _PACKAGES[scheme], "a PostgreSQL database")
    import sqlalchemy  # noqa: PLC0415 - takes half a second, for this case only

    place = "the database"
    try:
        parsed = sqlalchemy.make_url(url)
        place = f"the database {parsed.database!r} at {parsed.host or 'this machine'}"
        options = {"connect_timeout": CONNECT_SECONDS}
        engine = sqlalchemy.create_engine(parsed, connect_args=options)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        cause = str(getattr(error, "orig", None) or "its URL cannot be read")
        raise ServeError(f"cannot open {place}: {' '.join(cause.split())}") from None


def _require_artifacts(artifacts: str) -> None:
    if artifacts.startswith(_S3):
        if not urlsplit(artifacts).netloc:
            raise ServeError(f"files go to s3://BUCKET/PATH, got {artifacts!r}")
        _require_package("boto3", "boto3", "files in S3")
    elif "://" in artifacts:
        raise ServeError(f"files go to an s3:// URL or to a folder, got {artifacts!r}")
    else:
        _make_folder(Path(artifacts))


def _require_admin(store: Path) -> None:
    """ServeError unless there is, or can be made, someone who may log in."""
    _require_package("flask_wtf", "'mlflow[auth]'", "authentication")
    password = os.environ.get(_ADMIN_PASSWORD, "")
    settings = os.environ.get(_AUTH_CONFIG)
    if settings and not Path(settings).is_file():
        raise ServeError(f"{_AUTH_CONFIG} names no file: {settings}")
    # Who has settings of their own may keep users, and the password, elsewhere.
    if (store / _USERS).exists() or settings:
        return
    if len(password) < _LEAST_PASSWORD:
        given = "it is shorter" if password else "it is not set"
        raise ServeError(
            f"the first start with authentication makes the user 'admin': set {_ADMIN_PASSWORD} "
            f"to a password of {_LEAST_PASSWORD} characters or more ({given})"
        )


def _key(store: Path) -> str:
    """The secret that the server signs forms with, the same after a restart."""
    path = store / _KEY
    try:
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex())
        return path.read_text()
    except OSError as error:
        raise ServeError(f"cannot keep the server's key in {path}: {error}") from error


def _require_package(module: str, package: str, purpose: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ServeError(f"{purpose} needs {module}, which is not installed: pip install {package}")
