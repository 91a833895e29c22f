"""Command-line flags made from dataclasses, and laid over what a file says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import click

from search.config import DataConfig, TrainingConfig

TABLES: dict[str, type] = {"data": DataConfig, "training": TrainingConfig}
_FLAG_NAMES = {"source": "data", "root": "data_root"}
_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "int | None": int,
    "float": float,
    "tuple[str, ...]": str,
    "tuple[float, ...]": float,
}


def options(cls: type[Any], without: tuple[str, ...] = ()) -> Callable[..., Any]:
    """One flag per field of `cls` and its tables; help and defaults stand there."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        tables = (("", cls), *TABLES.items())
        made = [option for name, table in tables for option in _options_of(table, name, without)]
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def _options_of(cls: type[Any], table: str, without: tuple[str, ...]) -> list[Callable[..., Any]]:
    return [
        _option_of(field, table)
        for field in dataclasses.fields(cls)
        if field.name not in TABLES and field.name not in without
    ]


def _option_of(field: dataclasses.Field[Any], table: str) -> Callable[..., Any]:
    flag = "--" + _FLAG_NAMES.get(field.name, field.name).replace("_", "-")
    destination = f"{table}__{field.name}" if table else field.name
    text = field.metadata["help"]
    if str(field.type).startswith("bool"):
        return click.option(f"{flag}/--no-{flag[2:]}", destination, default=None, help=text)
    many = str(field.type).startswith("tuple")
    default: Any = field.default
    shown = " ".join(map(str, default)) if many else default
    suffix = f"  [default: {shown}]" if shown not in (None, "") else ""
    return click.option(
        flag,
        destination,
        type=_TYPES[str(field.type)],
        multiple=many,
        default=None,
        help=text + suffix,
    )


def overridden(content: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with the flags that were given laid over it."""
    merged: dict[str, Any] = dict(content)
    for destination, value in flags.items():
        if value is None or value == ():
            continue
        table, _, name = destination.rpartition("__")
        given = list(value) if isinstance(value, tuple) else value
        if table:
            inner = merged.get(table, {})
            merged[table] = {**inner, name: given} if isinstance(inner, Mapping) else inner
        else:
            merged[name] = given
    return merged
