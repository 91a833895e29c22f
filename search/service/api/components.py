"""What the service consists of, for the routes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import KW_ONLY, dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from search.service.access.settings_policy import SettingsPolicy
from search.service.access.tokens import Tokens
from search.service.api.event_blocks import EventBlocks
from search.service.api.response_cache import ResponseCache
from search.service.api.trial_state import TrialStates
from search.service.database.architectures import Architectures
from search.service.database.idempotency import IdempotencyKey
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.transactions import Database
from search.service.mlflow.connection import MlflowConnection
from search.service.queue.dispatcher import Dispatcher
from search.service.runs_folder import RunsFolder
from search.service.torch_worker.tasks import Server, catalogue
from search.service.torch_worker.worker import TorchWorker


@dataclass
class Components:
    """The service, put together; one for each app.

    worker, exporter: for tasks that need torch; an export keeps no preflight waiting.
    device: what searches train on.  on_cluster: whether machines of a Ray cluster do it.
    mlflow: None if there is no server.  tokens: None where everybody may do everything.
    streams: of events that are open, by who reads them.
    """

    database: Database
    dispatcher: Dispatcher
    worker: TorchWorker
    exporter: TorchWorker
    policy: SettingsPolicy
    runs: RunsFolder
    _: KW_ONLY
    device: str = "auto"
    on_cluster: bool = False
    mlflow: MlflowConnection | None = None
    tokens: Tokens | None = None
    response_cache: ResponseCache = field(default_factory=ResponseCache)
    is_closing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Counter[str] = field(default_factory=Counter)
    _key_locks: WeakValueDictionary[IdempotencyKey, asyncio.Lock] = field(
        default_factory=WeakValueDictionary
    )
    _catalogue: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.searches, self.queue = Searches(self.database), SearchQueue(self.database)
        self.architectures = Architectures(self.database)
        self.event_blocks, self.trials = EventBlocks(self.runs), TrialStates(self.runs)

    @property
    def mlflow_url(self) -> str:
        """Where clients find MLflow; empty if there is none."""
        return "" if self.mlflow is None else self.mlflow.client_url

    @property
    def server(self) -> Server:
        """What settings are checked against."""
        policy, limits = self.policy, self.policy.limits
        most = limits.most_params, limits.most_trials
        return Server(self.device, *most, on_cluster=self.on_cluster, trust=policy.builders)

    def shown(self, text: str) -> str:
        """What clients are told: files by the names that they gave, or find them under."""
        return self.policy.shown(text).replace(f"{self.runs.path}/", "")

    def key_lock(self, key: IdempotencyKey) -> asyncio.Lock:
        """Held while a search is begun: requests with the same key go one after the other."""
        return self._key_locks.setdefault(key, asyncio.Lock()) if key.key else asyncio.Lock()

    async def catalogue(self) -> dict[str, Any]:
        """See search.service.torch_worker.tasks.catalogue; asked for once."""
        if self._catalogue is None:
            self._catalogue = await self.worker.run(catalogue)
        return self._catalogue

    @property
    def is_warm(self) -> bool:
        """Whether the worker has answered before."""
        return self._catalogue is not None
