"""Reference pages made from the code: commands, settings, errors, the Python API, schemas."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import pruning.errors
from mlflow_server import errors as mlflow_errors
from search.cli import SUMMARIES, cli
from search.config.correlation_config import CorrelationConfig
from search.config.explicit_settings import flag_of
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig
from search.config.settings import choices, tables, type_of
from search.config.training_config import TrainingConfig
from search.service.service_config import ServiceConfig
from search.system.exit_status import exit_status

Page = tuple[str, tuple[str, str]]
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("pruning", "pruning.criteria", "pruning.regularizers"),
    *("copycat", "copycat.families", "search", "mlflow_server"),
)


def pages() -> Iterator[Page]:
    """Paths in docs/, each with title and Markdown."""
    for name in SUMMARIES:
        yield from _command_pages(name)
    yield "reference/settings.md", ("Settings", "\n".join(_settings_page()))
    yield "reference/errors.md", ("Errors and statuses", "\n".join(_errors_page()))
    for package in PACKAGES:
        yield f"reference/python/{package}.md", (package, "\n".join(_python_page(package)))
    schema = (ROOT / "copycat" / "architecture.schema.json").read_text(encoding="utf-8")
    yield "reference/architecture-schema.md", ("Schema of architecture.json", _schema_page(schema))


# ---- commands


def _command_pages(name: str) -> Iterator[Page]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    lines = list(_command(f"espalier {name}", command, 1))
    if isinstance(command, click.Group):
        for sub in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), sub)
            assert inner is not None
            lines += _command(f"espalier {name} {sub}", inner, 2)
    yield f"reference/commands/{name}.md", (name, "\n".join(lines))


def _command(path: str, command: click.Command, level: int) -> Iterator[str]:
    """Heading, usage, help and options, as `--help` has them."""
    context = click.Context(command, info_name=path, max_content_width=100)
    yield f"\n{'#' * level} `{path}`\n"
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    yield inspect.cleandoc(command.help or "")
    yield "\n| option | meaning |\n| --- | --- |"
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            names = "<br>".join(f"`{_cell(name)}`" for name in record[0].split(" / "))
            yield f"| {names} | {_words(record[1])} |"
    yield "| `-h, --help` | Show this message and exit. |"


# ---- settings

_ABOUT_SETTINGS = """\
# Settings

Every setting has one default, one help text and one range, in a class of `search/config/`. Flags,
TOML files (`--config FILE` of `search`, `family` and `correlate`), JSON and Python fill the same
classes; TOML tables are those of the headings. What does not fit is refused in one line before
anything is trained.
"""

_SETTINGS = (
    ("A search", "search", SearchConfig),
    ("A study of families", "family", FamilyConfig),
    ("A study of criteria", "correlate", CorrelationConfig),
    ("A service", "serve", ServiceConfig),
)


def _settings_page() -> Iterator[str]:
    yield _ABOUT_SETTINGS
    shown: set[type[Any]] = set()
    for title, command, cls in _SETTINGS:
        yield f"\n## {title}: `espalier {command}`\n"
        for name, table in {"": cls, **tables(cls)}.items():
            if table not in shown:
                shown.add(table)
                yield from _table_of(table, name)
    yield "\n## Recipes\n\n`--recipe NAME` sets these; whatever else is given goes over it.\n"
    for recipe, values in TrainingConfig.RECIPES.items():
        rows = ", ".join(f"`{key} = {_toml(value)}`" for key, value in values.items())
        yield f"- `{recipe}`: {rows or 'all defaults'}"


def _table_of(cls: type[Any], table: str) -> Iterator[str]:
    heading = f"`[{table}]`: {cls.__name__}" if table else f"`{cls.__name__}`"
    yield f"\n### {heading}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n"
    yield "| setting and flag | value | meaning |\n| --- | --- | --- |"
    for field in dataclasses.fields(cls):
        if field.name not in tables(cls):
            flag = flag_of(field.name, table)
            has_default = field.default not in (None, (), "", dataclasses.MISSING)
            default = f"<br>default `{_toml(field.default)}`" if has_default else ""
            yield (
                f"| `{field.name}`<br>`{flag}` | {_type(cls, field)}{default} | "
                f"{_words(field.metadata.get('description', ''))} |"
            )


def _type(cls: type[Any], field: dataclasses.Field[Any]) -> str:
    value_type, is_many = type_of(cls, field.name)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    try:
        words = ", ".join(f"`{choice}`" for choice in choices(cls, field.name))
    except IndexError:
        words = names.get(value_type, value_type.__name__)
    limits = field.metadata
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    words += "".join(f" {sign} {limits[name]:g}" for name, sign in signs.items() if name in limits)
    return f"list of: {words}" if is_many else words


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


# ---- errors

_ABOUT_ERRORS = """\
# Errors and statuses

Errors for people say in one line what was expected, what was got and what to do. In Python each is
a subclass of `pruning.errors.EspalierError` (those of the record, of
`mlflow_server.errors.MlflowServerError`); the command line prints the line and ends with the
status.

| status | when |
| --- | --- |
| 0 | all is done |
| 1 | a fault of Espalier's: the line names a file with the traceback |
| 2 | bad input, or a request that cannot be met |
| 75 | not now: the same command may succeed later (a disk is full, MLflow or a cluster is away) |
| 130 | interrupted |

| error | is a | status | when |  |
| --- | --- | --- | --- | --- |"""


def _errors_page() -> Iterator[str]:
    yield _ABOUT_ERRORS
    for root in (pruning.errors.EspalierError, mlflow_errors.MlflowServerError):
        for error in _family(root):
            (parent, *_) = error.__bases__
            when = inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0]
            name, base = error.__name__, parent.__name__
            page = getattr(error, "page", "")
            link = f"[more](../{page})" if page else ""
            yield f"| `{name}` | `{base}` | {_status(error)} | {_words(when)} | {link} |"


def _family(error: type[Exception]) -> Iterator[type[Exception]]:
    if not error.__name__.startswith("_"):
        yield error
    for child in error.__subclasses__():
        yield from _family(child)


def _status(error: type[Exception]) -> str:
    if error is mlflow_errors.TrackingError:
        return "75 where it may go by, else 2"
    return str(exit_status(error.__new__(error)))


# ---- Python


def _python_page(package: str) -> Iterator[str]:
    module = importlib.import_module(package)
    about = inspect.cleandoc(module.__doc__ or "")
    yield f"# {package}\n\n{about}\n"
    for name in module.__all__:
        value = getattr(module, name)
        home = getattr(module, "_HOMES", {}).get(name) or str(getattr(value, "__module__", ""))
        if not inspect.ismodule(value) and home.partition(".")[0] == package.partition(".")[0]:
            yield f"::: {home}.{name}\n"


def _schema_page(schema: str) -> str:
    return (
        "# Schema of architecture.json\n\n"
        f"{json.loads(schema)['description']} [Files](files.md) says what lies beside it.\n\n"
        f'```json title="copycat/architecture.schema.json"\n{schema.rstrip()}\n```\n'
    )


def _words(text: str) -> str:
    """Text in a cell of a table, with what looks like code left as it stands."""
    return _cell(text).replace("<", "&lt;").replace("*", "\\*")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
