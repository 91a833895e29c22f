"""Budget-constrained searches: configuration, data, models, trials, results.

What is listed here is imported when first used, so that `search.models` alone, which rebuilds
exported architectures, needs nothing but torch, and `Client` not even that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.client import Client
    from search.config.correlation_config import CorrelationConfig
    from search.config.data_config import DataConfig
    from search.config.family_config import FamilyConfig
    from search.config.gates_config import GatesConfig
    from search.config.iterative_config import IterativeConfig
    from search.config.resources_config import ResourcesConfig
    from search.config.search_config import SearchConfig
    from search.config.study_config import StudyConfig
    from search.config.training_config import TrainingConfig
    from search.data.own.data_splits import DataSplits
    from search.studies.search_study import SearchResult, run
    from search.tasks.score import Score
    from search.tasks.task import Task
    from search.tasks.training_context import TrainingContext

_HOMES = {
    "Client": "search.client",
    "CorrelationConfig": "search.config.correlation_config",
    "DataConfig": "search.config.data_config",
    "DataSplits": "search.data.own.data_splits",
    "FamilyConfig": "search.config.family_config",
    "GatesConfig": "search.config.gates_config",
    "IterativeConfig": "search.config.iterative_config",
    "ResourcesConfig": "search.config.resources_config",
    "SearchConfig": "search.config.search_config",
    "StudyConfig": "search.config.study_config",
    "TrainingConfig": "search.config.training_config",
    "SearchResult": "search.studies.search_study",
    "Score": "search.tasks.score",
    "Task": "search.tasks.task",
    "TrainingContext": "search.tasks.training_context",
    "run": "search.studies.search_study",
}

__all__ = [
    "Client",
    "CorrelationConfig",
    "DataConfig",
    "DataSplits",
    "FamilyConfig",
    "GatesConfig",
    "IterativeConfig",
    "ResourcesConfig",
    "Score",
    "SearchConfig",
    "SearchResult",
    "StudyConfig",
    "Task",
    "TrainingConfig",
    "TrainingContext",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
