"""Whether an MLflow server is there, and what it means when a call to it fails."""

import os
import re
import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import getproxies, urlopen

from mlflow_server.credentials_file import PASSWORD, USER, take_credentials
from mlflow_server.errors import TrackingError
from mlflow_server.store import SQLITE_PREFIX

REACH_SECONDS = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TRANSIENT_CODES = frozenset(
    {
        *("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"),
        *("DEADLINE_EXCEEDED", "UNAUTHENTICATED"),  # someone may give the password back
    }
)
_TRANSIENT_STATUS = frozenset({401, 408, 425, 429, 502, 503, 504})
_HTTP_SETTINGS = {
    # With a retry of its own, a call whose answer got lost could create a second run; with
    # the default of seven it would take four minutes to find out that a server is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
}


def prepare_for_server(address: str) -> None:
    """Let MLflow's client give up in seconds, in this process, unless its settings are chosen.

    It is given the password that the service of a search keeps for it. Raises TrackingError if
    that cannot be read, if nothing answers at the address, or if it holds a password.
    """
    require_no_password(address)
    take_credentials()
    reach_loopback_directly()
    require_reachable(address)
    for setting, value in _HTTP_SETTINGS.items():
        os.environ.setdefault(setting, value)  # MLflow has no other place for them


def reach_loopback_directly() -> None:
    """Let no proxy of the environment stand between this process, its children and this machine.

    A proxy cannot reach what listens on loopback addresses here: to it they are its own.
    """
    if not getproxies():
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in _LOOPBACK if host not in hosts]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(hosts)


def require_reachable(server: str, timeout_seconds: float = REACH_SECONDS) -> None:
    """Raise TrackingError unless something answers HTTP at this address in time.

    MLflow's own client would repeat an unanswered request for four minutes. Whether an answer
    is a good one is left to it, and so are certificates, which it lets users configure.
    """
    try:
        with urlopen(f"{server.rstrip('/')}/version", timeout=timeout_seconds):
            pass
    except HTTPError as error:
        error.close()
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLError):
            return
        raise TrackingError(
            f"no MLflow server answers at {server}: {reason}", is_transient=True
        ) from error


def require_no_password(server: str) -> None:
    if "@" in server.partition("://")[2].partition("/")[0]:
        raise TrackingError(
            "a server's address is shown in messages and may not hold a password: "
            f"set {USER} and {PASSWORD} instead"
        )


def tracking_error(tracking_uri: str, error: Any) -> TrackingError:
    """MLflow's error in one line; the same code stands for an outage and for a bad request."""
    if not tracking_uri.startswith(SQLITE_PREFIX):
        try:
            require_reachable(tracking_uri)
        except TrackingError as outage:
            return outage
    first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
    return TrackingError(
        f"MLflow at {tracking_uri}: {first_line}", is_transient=_is_transient(error)
    )


def is_outage(error: BaseException) -> bool:
    """Whether an error of the connection may not come again: nobody answered, or with "later".

    What is too large for a proxy (413), or a fault in the server itself (500), comes again.
    """
    status = _status_of(error)
    is_unanswered = isinstance(error, OSError) and not isinstance(error, ValueError)
    return is_unanswered if status is None else status in _TRANSIENT_STATUS


def _status_of(error: BaseException) -> int | None:
    """With which a server answered, as MLflow or its HTTP library tells it."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    told = re.search(r"too many (\d+) error responses|with error code (\d+)", str(error))
    return None if told is None else int(told[1] or told[2])


def _is_transient(error: Any) -> bool:
    """Whether the server may do the same later: it is there again now, or busy, or half up."""
    # MLflow gives the same code to a server that did not answer as to a fault in itself.
    cause = error.__cause__ or error.__context__
    if _status_of(error) is not None or not isinstance(cause, OSError):
        return is_outage(error) or error.error_code in _TRANSIENT_CODES
    return is_outage(cause)
