"""Command-line flags made from dataclasses, and laid over what a file says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click
from click.core import ParameterSource

from search.commands.completions import of_setting
from search.config.explicit_settings import flag_of
from search.config.settings import tables, type_of


def options(cls: type[Any], without: Collection[str] = ()) -> Callable[..., Any]:
    """One flag per field of `cls` and its tables; help, defaults and types are theirs.

    without: names of fields of `cls`; those of none are of its tables' fields.
    """
    own = {field.name for field in dataclasses.fields(cls)}
    made = [
        _option_of(table, field, name)
        for name, table in {"": cls, **tables(cls)}.items()
        for field in dataclasses.fields(table)
        if field.name not in ({*without} - own if name else {*without, *tables(cls)})
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def some_options(cls: type[Any], names: Collection[str]) -> Callable[..., Any]:
    """Like `options`, for these fields and tables of `cls` alone."""
    parts = {field.name: [field.name] for field in dataclasses.fields(cls)}
    for name, table in tables(cls).items():
        parts[name] = [field.name for field in dataclasses.fields(table)]
    return options(cls, [part for name in parts if name not in names for part in parts[name]])


def _option_of(cls: type[Any], field: dataclasses.Field[Any], table: str) -> Callable[..., Any]:
    flag = flag_of(field.name, table)
    destination = f"{table}__{field.name}" if table else field.name
    text = field.metadata["description"]
    value_type, is_many = type_of(cls, field.name)
    if value_type is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", destination, default=None, help=text)
    default: Any = field.default
    shown = " ".join(map(str, default)) if is_many else default
    suffix = f"  [default: {shown}]" if shown not in (None, "") else ""
    return click.option(
        flag,
        destination,
        type=value_type,
        multiple=is_many,
        default=None,
        help=text + suffix,
        shell_complete=of_setting(cls, field.name),
    )


def overridden(content: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with the flags that were given laid over it."""
    merged: dict[str, Any] = dict(content)
    for destination, value in flags.items():
        if value is None or value == ():
            continue
        table, _, name = destination.rpartition("__")
        setting = list(value) if isinstance(value, tuple) else value
        if table:
            inner = merged.get(table, {})
            merged[table] = {**inner, name: setting} if isinstance(inner, Mapping) else inner
        else:
            merged[name] = setting
    return merged


def refuse_without_effect(names: Collection[str], why: str) -> None:
    """UsageError for the first of these options that was typed, though it has no effect."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} has no effect {why}: leave it out")
