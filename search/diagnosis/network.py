"""Ports of this machine, proxies, and the servers that a search is to use."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from mlflow_server.errors import MlflowServerError
from mlflow_server.reach import require_no_password, require_reachable
from mlflow_server.serve import free_port
from pruning.errors import ServiceError, first_line
from search.client import Client
from search.diagnosis.finding import Finding
from search.scheduling.ray_environment import TOKEN_PLACES, cluster_token

_LOOPBACK = "127.0.0.1"
_SECONDS = 5.0

_PORTS = {
    8000: "espalier serve --port 0",
    5000: "espalier ui --port 0, espalier serve --mlflow-port 0",
}
"""Ports that are taken by default, and how to take another."""


def check_ports() -> Iterator[Finding]:
    """Whether one can listen on this machine, and on the ports that are taken by default."""
    try:
        free_port(_LOOPBACK, 0)
    except MlflowServerError as error:
        mend = "let programs listen on the loopback interface: MLflow and Ray are reached by it"
        yield Finding("ports", _LOOPBACK, "problem", str(error), mend)
        return
    for port, mend in _PORTS.items():
        try:
            free_port(_LOOPBACK, port)
        except MlflowServerError:
            wrong = "another program listens there"
            yield Finding(f"port {port}", "taken", "warning", wrong, f"take another: {mend}")
        else:
            yield Finding(f"port {port}", "free")


def check_proxies() -> Iterator[Finding]:
    """The proxies of the environment, which downloads go through; this machine is reached past."""
    proxies = {kind: url for kind, url in getproxies().items() if kind in ("http", "https")}
    if not proxies:
        yield Finding("proxies", "none")
    for kind, url in proxies.items():
        parts = urlsplit(url if "://" in url else f"http://{url}")
        subject, place = f"{kind} proxy", f"{parts.hostname}:{parts.port or 80}"
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), _SECONDS).close()
        except OSError as error:
            wrong = f"it does not answer: {first_line(error)}; downloads will fail"
            mend = f"unset {kind.upper()}_PROXY, or name one that answers"
            yield Finding(subject, place, "warning", wrong, mend)
        else:
            yield Finding(subject, place)


def check_mlflow(url: str) -> Finding:
    """Whether an MLflow server answers there."""
    try:
        require_no_password(url)
        require_reachable(url)
    except MlflowServerError as error:
        mend = "start it, or correct the address; without one a search keeps a store of its own"
        return Finding("MLflow", urlsplit(url).hostname or "", "problem", str(error), mend)
    return Finding("MLflow", url)


def check_cluster(address: str) -> Finding:
    """Whether a Ray cluster answers at HOST:PORT, or its job server at http://HOST:PORT."""
    is_job_server = "://" in address
    parts = urlsplit(address if is_job_server else f"ray://{address}")
    try:
        if is_job_server:
            return _job_server(address)
        socket.create_connection((parts.hostname or "", parts.port or 6379), _SECONDS).close()
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        wrong = f"no cluster answers: {first_line(error)}"
        mend = "start it (ray start --head), open its port, or correct the address"
        return Finding("Ray cluster", address, "problem", wrong, mend)
    return Finding("Ray cluster", address)


def _job_server(address: str) -> Finding:
    token, ours = cluster_token(), importlib.metadata.version("ray")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = httpx.get(f"{address.rstrip('/')}/api/version", headers=headers, timeout=_SECONDS)
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        wrong = "it refuses this token, or asks for one"
        mend = f"give the cluster's, which is looked for {TOKEN_PLACES}"
        return Finding("Ray cluster", address, "problem", wrong, mend)
    theirs = response.raise_for_status().json()["ray_version"]
    if theirs != ours:
        wrong = f"it runs Ray {theirs}, this environment has {ours}: they do not work together"
        mend = f"install the same on all nodes: pip install 'ray[default]=={ours}'"
        return Finding("Ray cluster", address, "problem", wrong, mend)
    return Finding("Ray cluster", f"{address}, Ray {theirs}")


def check_service(url: str, token: str) -> Finding:
    """Whether the service that --server or ESPALIER_SERVER names answers, and all of its parts."""
    try:
        with Client(url, token) as client:
            health = client.health()
    except ServiceError as error:
        mend = "start it, correct --server or ESPALIER_SERVER, or leave them out to work here"
        return Finding("service", url, "problem", str(error), mend)
    found = f"{url}, version {health['version']}"
    missing = ", ".join(name for name, is_well in health.get("parts", {}).items() if not is_well)
    if missing:
        mend = "look at its log: it comes back by itself when they do"
        return Finding("service", found, "warning", f"not working: {missing}", mend)
    return Finding("service", found)
