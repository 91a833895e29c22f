"""Settings without the defaults: as nested values, as arguments of the command line, as a key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pruning.errors import ServiceError
from search.storage.layout import StudyKind

_FLAG_NAMES = {
    "source": "data",
    "root": "data_root",
    "builders": "builder",
    "tasks": "task",
    "allowed_hosts": "allowed_host",
    "cors_origins": "cors_origin",
    "webhooks": "webhook",
    "training.schedule": "learning_rate_schedule",
}
"""By the name of a setting, or its table and name where another table has one of that name."""

_TABLES_IN_FLAGS = ("iterative",)
"""Tables whose flags begin with their name: many of their settings have names of others."""


def explicit_settings(config: Any) -> dict[str, Any]:
    """Of a dataclass of settings, what differs from the defaults, nested as in a TOML file."""
    explicit: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if inner := explicit_settings(value):
                explicit[field.name] = inner
        elif value != field.default:
            explicit[field.name] = list(value) if isinstance(value, tuple) else value
    return explicit


def settings_json(settings: Mapping[str, Any]) -> str:
    """As JSON, the same for the same settings; ServiceError for what JSON cannot say."""
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ServiceError(f"these settings cannot be sent to a server: {error}") from None


def settings_key(settings: Mapping[str, Any], kind: StudyKind = "search") -> str:
    """An Idempotency-Key that is the same whenever the settings, and the kind of study, are."""
    digest = hashlib.sha256(settings_json(settings).encode()).hexdigest()
    return f"settings-{digest}" if kind == "search" else f"{kind}-settings-{digest}"


def flag_of(name: str, table: str = "") -> str:
    """The flag of a setting; the words of the command line differ from those of Python for some.

    table: that the setting is in; empty for none.
    """
    if table in _TABLES_IN_FLAGS:
        words = f"{table}_{name}"
    else:
        words = _FLAG_NAMES.get(f"{table}.{name}", _FLAG_NAMES.get(name, name))
    return "--" + words.replace("_", "-")


def as_arguments(settings: Mapping[str, Any], table: str = "") -> list[str]:
    """What to type for these settings, nested as in a TOML file; table: that they are in."""
    arguments: list[str] = []
    for name, value in settings.items():
        flag = flag_of(name, table)
        if isinstance(value, Mapping):
            arguments += as_arguments(value, name)
        elif isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            values = value if isinstance(value, list) else [value]
            arguments += [f"{flag}={one}" for one in values]
    return arguments
