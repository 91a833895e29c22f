"""Searches as jobs of a Ray cluster, by the job server's own HTTP API.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from pruning.errors import ServiceError
from search.scheduling.ray_environment import TOKEN_PLACES, cluster_token
from search.service.queue.launcher import (
    Launcher,
    ProcessExit,
    process_exit,
    resume_arguments,
)
from search.storage.layout import study_kind

_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_REFUSALS = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
_TIMEOUT_SECONDS = 30.0


class RayJobsLauncher(Launcher):
    """One job each; a handle is its submission id. The nodes share the folder of searches.

    address: of the job server, such as http://HOST:8265; Ray's token goes along, if there is one.
    python: interpreter on the nodes.
    """

    def __init__(
        self,
        address: str,
        runs: Path,
        mlflow_url: str,
        *,
        python: str = "python",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._address, self._runs, self._mlflow_url = address, runs, mlflow_url
        self._python, self._environment = python, dict(environment or {})
        token = cluster_token()
        self._client = httpx.Client(
            base_url=f"{address.rstrip('/')}/api/jobs/",
            timeout=_TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        self.require_answer()

    def require_answer(self) -> None:
        """ServiceError unless the job server answers."""
        self._request("GET", "")

    def launch(self, search_id: str, attempt: int) -> str:
        # a correlation study is the work of one process, wherever that is
        is_alone = study_kind(self._runs / search_id) == "correlation"
        flags = () if is_alone else ("--ray-address", "auto")
        command = resume_arguments(search_id, self._runs, self._mlflow_url, flags)
        submission = f"espalier-{search_id}-{attempt}"
        if self._job(submission) is None:
            job = {
                "entrypoint": f"exec {shlex.join([self._python, *command])}",
                "submission_id": submission,
                "runtime_env": {"env_vars": self._environment},
                "metadata": {"espalier.search": search_id},
            }
            self._request("POST", "", json=job)
        return submission

    def poll(self, handle: str) -> ProcessExit | None:
        job = self._job(handle)
        if job is None:
            return ProcessExit("the cluster knows its job no more")
        if job["status"] not in _OVER:
            return None
        logs = self._request("GET", f"{handle}/logs").json().get("logs") or ""
        cause = f"its job is {job['status'].lower()}"
        return process_exit(cause, _own_lines(logs), job.get("driver_exit_code"))

    def interrupt(self, handle: str) -> None:
        if self._job(handle) is not None:
            self._request("POST", f"{handle}/stop")

    def kill(self, handle: str) -> None:
        self.interrupt(handle)  # Ray follows with SIGKILL by itself

    def _job(self, submission: str) -> dict[str, Any] | None:
        response = self._request("GET", submission, may_be_missing=True)
        return None if response.status_code == httpx.codes.NOT_FOUND else response.json()

    def _request(
        self, method: str, path: str, *, json: Any = None, may_be_missing: bool = False
    ) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=json)
            if not (may_be_missing and response.status_code == httpx.codes.NOT_FOUND):
                response.raise_for_status()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _REFUSALS:
                raise ServiceError(
                    f"the Ray job server at {self._address} refuses this token, or asks for one: "
                    f"give the cluster's, which is looked for {TOKEN_PLACES}"
                ) from error
            cause = f"status {error.response.status_code}: {_last_line(error.response.text)}"
            raise ServiceError(f"the Ray job server at {self._address} fails: {cause}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(f"the Ray job server at {self._address} fails: {error}") from error
        return response


def _last_line(text: str) -> str:
    """Of an answer that may be a traceback."""
    return (text.strip().splitlines() or ["no reason given"])[-1].strip()


def _own_lines(logs: str) -> str:
    """What the search printed, without the lines that Ray adds behind it."""
    lines = [line for line in logs.splitlines() if not line.startswith(("(", "["))]
    return "\n".join(lines)
