"""Settings as they arrive in a request: parsed, and of a size that can be checked further."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from search.service.problem_details import ProblemError
from search.service.runs_folder import refuse_constant

MAX_BYTES = 64 * 1024
"""Of a request's body."""

_MAX_CHARACTERS, _MAX_ITEMS, _MAX_NAME = 300, 64, 80
_MAX_DOTS = 200
"""Of a line of TOML, whose reader takes the square of the time for a key of twice the parts."""


def parse_settings(body: bytes, media_type: str) -> Mapping[str, Any]:
    """The settings in a request's body, JSON or TOML; ProblemError for anything else."""
    kind = media_type.partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/toml"):
        raise ProblemError(415, "settings come as application/json or application/toml")
    try:
        text = body.decode()
        if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
            raise ProblemError(400, f"a line of settings has at most {_MAX_DOTS} dots")
        content = (
            json.loads(text, parse_constant=refuse_constant)
            if kind == "application/json"
            else tomllib.loads(text)
        )
    except RecursionError:
        raise ProblemError(400, "the settings are nested too deeply") from None
    except ValueError as error:
        raise ProblemError(400, f"the body is not {kind.partition('/')[2]}: {error}") from None
    if not isinstance(content, Mapping):
        raise ProblemError(422, "settings are an object with a value for each of their names")
    for name, value in leaves(content):
        check_size(name, value)
    return content


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names such as training.epochs and what they are set to, two levels deep."""
    for name, value in content.items():
        check_size("a name", name)
        if isinstance(value, Mapping) and not prefix:
            yield from leaves(value, f"{name}.")
        else:
            yield prefix + name, value


def check_size(field: str, value: object) -> None:
    """ProblemError 422 for texts, lists and numbers that are too large, and for deep nesting."""
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_ITEMS:
        raise ProblemError(422, f"{field} has more than {_MAX_ITEMS} items", field)
    for item in items:
        longest = _MAX_NAME if field == "name" else _MAX_CHARACTERS
        if isinstance(item, str) and (len(item) > longest or not item.isprintable()):
            raise ProblemError(
                422, f"{field} must be at most {longest} printable characters", field
            )
        if isinstance(item, int | float) and not abs(item) < 2**53:
            raise ProblemError(422, f"{field} is too large a number", field)
        if isinstance(item, list | dict):
            raise ProblemError(422, f"{field} is nested too deeply", field)
