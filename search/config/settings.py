"""What classes of settings are made with: one default, one help text and one range per field.

TOML, JSON, flags and Python all fill the same pydantic dataclasses; the flags of the command line,
the JSON schema of the service and the messages on what does not fit are made from their fields. A
field holds what was given; whatever follows from it is a property, so that `dataclasses.replace`
leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import (
    Any,
    Literal,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic.dataclasses
from pydantic import ConfigDict, ValidationError

from pruning.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]

_Settings = TypeVar("_Settings")
_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

_TYPES = {
    str: ("a text", "a list of texts"),
    int: ("a whole number", "a list of whole numbers"),
    float: ("a number", "a list of numbers"),
    bool: ("true or false", "a list of true or false"),
}
"""What a value of a type is called, and several of them."""

_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
"""pydantic's names for what is wrong with a number out of range."""

_BOUNDS = ("gt", "ge", "lt", "le")
"""pydantic's names for the ends of a range."""


def option(default: Any, help_text: str, **limits: Any) -> Any:
    """A field with its default, its help text, and pydantic's limits, such as ge=1."""
    if isinstance(default, tuple):
        limits["strict"] = False  # a list, as TOML and JSON have it, will do
    return dataclasses.field(default=default, metadata={"description": help_text, **limits})


def same_option(cls: type[Any], name: str, help_text: str = "") -> Any:
    """A field with the default and the limits that `cls` has for it; its help, too, by default."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    words = {"description": help_text} if help_text else {}
    return dataclasses.field(default=field.default, metadata={**field.metadata, **words})


@dataclass_transform(frozen_default=True)
def settings(cls: type[_Settings]) -> type[_Settings]:
    """Make `cls` a frozen dataclass that checks types and limits whenever one is made.

    What does not fit raises ConfigError: one line with what was expected and what was got.
    """
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_CHECKED)(cls)
    fill, signature = made.__init__, inspect.signature(made)

    @functools.wraps(fill)
    def __init__(self: Any, *values: Any, **by_name: Any) -> None:  # noqa: N807
        given = signature.bind(*values, **by_name).arguments
        try:
            fill(self, **given)
        except ValidationError as error:
            raise _in_one_line(made, error, given) from None

    made.__init__ = __init__
    return cast(type[_Settings], made)


class _WrongTypeError(ConfigError):
    """A value of another type: only files and requests have them, flags are read by type."""


def _in_one_line(cls: type[Any], error: ValidationError, given: Mapping[str, Any]) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    name, kind = str(problem["loc"][0]), problem["type"]
    limits = {field.name: field.metadata for field in dataclasses.fields(cls)}[name]
    value = given[name]
    if kind in _LIMITS and not limits.keys().isdisjoint(_BOUNDS):
        return ConfigError(f"{name} must be {_range(limits, kind)}, got {value!r}", field=name)
    if kind == "literal_error":
        names = ", ".join(choices(cls, name))
        return ConfigError(f"{name} must be one of {names}, got {value!r}", field=name)
    value_type, is_many = type_of(cls, name)
    expected = _TYPES.get(value_type, (f"a {value_type.__name__}",) * 2)[is_many]
    return _WrongTypeError(f"{name} must be {expected}, got {value!r}", field=name)


def _range(limits: Mapping[str, Any], kind: str) -> str:
    if "ge" in limits and "le" in limits:
        return f"from {limits['ge']} to {limits['le']}"
    if "gt" in limits and "lt" in limits:
        return f"between {limits['gt']} and {limits['lt']}"
    if kind == "less_than":
        return f"below {limits['lt']:,}"
    return f"above {limits['gt']}" if "gt" in limits else f"at least {limits['ge']}"


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """ConfigError, telling what was expected, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}", field=name)


def require_defaults(config: Any, names: Collection[str], why: str) -> None:
    """ConfigError for the first of these settings that was changed, though it has no effect."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in names and value != field.default:
            raise ConfigError(
                f"{field.name} has no effect {why}, got {value!r}: leave it out", field=field.name
            )


def type_of(cls: type[Any], name: str) -> tuple[type[Any], bool]:
    """The type of a field's value, or of each where it has several, and whether it has several."""
    hint = get_type_hints(cls)[name]
    is_many = get_origin(hint) is tuple
    while inner := get_args(hint):
        hint = inner[0]
    return (hint if isinstance(hint, type) else type(hint)), is_many


def choices(cls: type[Any], name: str) -> tuple[str, ...]:
    """What a field with a few texts to choose from can hold."""
    hint = get_type_hints(cls)[name]
    while get_origin(hint) is not Literal:
        hint = get_args(hint)[0]
    return get_args(hint)


def tables(cls: type[Any]) -> dict[str, type[Any]]:
    """Of the settings `cls`, those that are settings themselves: tables of a TOML file."""
    made = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    return {name: cls for name, cls in made.items() if isinstance(cls, type)}  # type: ignore[misc]


def listed(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Names given one by one or joined by commas, each once, in order."""
    names = (name.strip() for text in texts for name in text.split(","))
    return tuple(dict.fromkeys(names))


def from_mapping(
    cls: type[_Settings],
    content: Mapping[str, Any],
    origin: str = "the configuration",
    prefix: str = "",
) -> _Settings:
    """Settings from nested mappings, such as a TOML file's; ConfigError for unknown keys.

    origin: what the mapping is called in messages.  prefix: of the names in it, such as training.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    inner = tables(cls)
    values = {}
    for key, value in _over_recipe(cls, content, f"{origin}: {prefix}recipe").items():
        if key not in known:
            raise _unknown_key(prefix + key, key, known, origin)
        if key in inner and not isinstance(value, Mapping):
            raise ConfigError(f"{origin}: {key!r} must be a table, got {value!r}", field=key)
        is_table = key in inner
        values[key] = from_mapping(inner[key], value, origin, f"{key}.") if is_table else value
    try:
        return cls(**values)
    except _WrongTypeError as error:
        raise ConfigError(f"{origin}: {prefix}{error}", field=prefix + error.field) from None
    except ConfigError as error:
        error.field = error.field and prefix + error.field
        raise


def _over_recipe(cls: type[Any], content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The content laid over the recipe that it names, if these settings have recipes."""
    if "recipe" not in content or not hasattr(cls, "RECIPES"):
        return content
    rest = dict(content)
    return {**recipe_of(cls, rest.pop("recipe"), where), **rest}


def recipe_of(cls: type[Any], name: object, where: str = "recipe") -> Mapping[str, Any]:
    """The settings that a recipe of `cls` has; ConfigError, with names like it, for none."""
    recipes: Mapping[str, Mapping[str, Any]] = cls.RECIPES
    if isinstance(name, str) and name in recipes:
        return recipes[name]
    raise ConfigError(
        f"{where} must be the name of a recipe, got {name!r}: {like(str(name), recipes)}",
        field=where.rpartition(" ")[2],
    )


def _unknown_key(path: str, key: str, known: Collection[str], origin: str) -> ConfigError:
    return ConfigError(f"{origin} has an unknown key {path!r}: {like(key, known)}", field=path)


def like(name: str, known: Collection[str]) -> str:
    """What to tell of an unknown name: those like it, or all that are known."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file; ConfigError if it is missing or malformed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
