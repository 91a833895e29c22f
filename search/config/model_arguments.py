"""Arguments of a network as they are typed: key=value."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable
from typing import Any

from pruning.errors import ConfigError

_PLAIN = (bool, int, float, str)


def model_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Values by name, from texts such as depth=20, width=1.5, bias=false and act=relu.

    A value is read as TOML or JSON would read a number, true, false, null or a text in quotes;
    everything else is a text as it stands. ConfigError for what has no name, and a name twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"model_arg must be NAME=VALUE, such as depth=20, got {text!r}", field="model_arg"
            )
        if name in arguments:
            raise ConfigError(f"model_arg gives {name} twice", field="model_arg")
        arguments[name] = _value(value.strip())
    return arguments


def _toml(text: str) -> Any:
    content = tomllib.loads(f"value = {text}")
    if len(content) > 1:
        raise ValueError("it is more than a value")
    return content["value"]


def _value(text: str) -> Any:
    for read in (_toml, json.loads):
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        is_finite = not isinstance(value, float) or math.isfinite(value)
        if value is None or (isinstance(value, _PLAIN) and is_finite):
            return value
    return text
