"""An MLflow server, as the service and its clients reach it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from search.service.mlflow.credentials import MlflowCredentials

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class MlflowConnection:
    """Where a server is.

    public_url: its address for clients, if that is another one.  answers: whether the service's
    own server does right now; None for a server of others.
    """

    url: str
    public_url: str = ""
    credentials: MlflowCredentials | None = None
    answers: Callable[[], Awaitable[bool]] | None = None

    @property
    def client_url(self) -> str:
        """The address for clients."""
        return self.public_url or self.url

    async def run_page(self, search_id: str, architecture: str) -> str | None:
        """Where clients see the run of an architecture; None while there is none."""
        api = f"{self.url.rstrip('/')}/api/2.0/mlflow"
        query = {
            "filter": f"tags.`espalier.architecture` = '{architecture}' "
            "and tags.`espalier.kind` = 'architecture'",
            "max_results": 1,
        }
        auth = None if self.credentials is None else self.credentials.basic_auth
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, auth=auth) as client:
                response = await client.get(
                    f"{api}/experiments/get-by-name", params={"experiment_name": search_id}
                )
                experiment = response.raise_for_status().json()["experiment"]["experiment_id"]
                response = await client.post(
                    f"{api}/runs/search", json={**query, "experiment_ids": [experiment]}
                )
                (run,) = response.raise_for_status().json()["runs"]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        run_id = quote(run["info"]["run_id"])
        return f"{self.client_url.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
