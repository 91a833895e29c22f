"""Fields of the settings' dataclasses: one default and one help text each, in one place."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import field
from typing import Any

from pruning.errors import ConfigError

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")


def option(default: Any, help_text: str) -> Any:
    """A field with this default, which the command line offers with this help text."""
    return field(default=default, metadata={"help": help_text})


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """ConfigError, telling what was expected, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}", field=name)


def seconds(name: str, text: str) -> float | None:
    """The length of a period such as 90s, 30min, 2h or 1d; None for an empty text."""
    if not text:
        return None
    match = _PERIOD.fullmatch(text.strip())
    value = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    require(value > 0, name, "a period such as 90s, 30min, 2h or 1d", text)
    return value


def tables(cls: type[Any]) -> dict[str, type[Any]]:
    """Of the settings `cls`, those that are settings themselves: tables of a TOML file."""
    made = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    return {name: cls for name, cls in made.items() if isinstance(cls, type)}  # type: ignore[misc]
