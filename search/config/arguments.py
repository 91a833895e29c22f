"""Settings as they are typed on the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

_FLAG_NAMES = {
    "source": "data",
    "root": "data_root",
    "builders": "builder",
    "allowed_hosts": "allowed_host",
    "cors_origins": "cors_origin",
    "webhooks": "webhook",
}


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The flag of a setting; the words of the command line differ from those of Python for some."""
    return "--" + _FLAG_NAMES.get(field.name, field.name).replace("_", "-")


def as_arguments(settings: Any) -> list[str]:
    """What to type for these settings, a dataclass with tables; defaults are left out."""
    arguments: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            arguments += as_arguments(value)
        elif value != field.default and value is not None:
            flag = flag_of(field)
            if isinstance(value, bool):
                arguments.append(flag if value else f"--no-{flag[2:]}")
            else:
                many = value if isinstance(value, tuple) else (value,)
                arguments += [f"{flag}={one}" for one in many]
    return arguments
