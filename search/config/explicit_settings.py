"""Settings of a search as a server gets them: what was given, without the defaults."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pruning.errors import ServiceError


def settings_json(settings: Mapping[str, Any]) -> str:
    """As JSON, the same for the same settings; ServiceError for what JSON cannot say."""
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ServiceError(f"these settings cannot be sent to a server: {error}") from None


def settings_key(settings: Mapping[str, Any]) -> str:
    """An Idempotency-Key that is the same whenever the settings are."""
    return f"settings-{hashlib.sha256(settings_json(settings).encode()).hexdigest()}"


def given_settings(config: Any) -> dict[str, Any]:
    """Of a SearchConfig, what differs from the defaults, nested as in a TOML file."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if inner := given_settings(value):
                given[field.name] = inner
        elif value != field.default:
            given[field.name] = list(value) if isinstance(value, tuple) else value
    return given
