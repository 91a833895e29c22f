"""The class of settings that each kind of study is asked for with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.config import correlation_config, family_config
from search.config.correlation_config import CorrelationConfig
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig
from search.storage.layout import StudyKind

SETTINGS_OF: Mapping[StudyKind, type[Any]] = {
    "search": SearchConfig,
    "family": FamilyConfig,
    "correlation": CorrelationConfig,
}

UNUSED: Mapping[StudyKind, frozenset[str]] = {
    "family": frozenset(f"training.{name}" for name in family_config.UNUSED_TRAINING),
    "correlation": frozenset(
        [
            *(f"training.{name}" for name in correlation_config.UNUSED_TRAINING),
            *(f"resources.{name}" for name in correlation_config.UNUSED_RESOURCES),
        ]
    ),
}
"""Settings in the tables of such a study that it has no use for, and refuses."""


def kind_of(config: object) -> StudyKind:
    """The kind of study that these settings ask for."""
    return next(kind for kind, cls in SETTINGS_OF.items() if isinstance(config, cls))
