"""Which builders an architecture file may run, and with which arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import get_type_hints

from torch import nn

from copycat.builder import Builder
from pruning.errors import ArchitectureError

TRUSTED_BUILDERS = ("search.models", "torchvision.models", "timm.models")
"""Modules whose callables may build a network without the caller naming them."""

_DOWNLOADING = {
    "torchvision": ("weights", "pretrained"),
    "timm": ("pretrained", "checkpoint", "cache_dir"),
}
"""By package, how arguments begin that name weights to be downloaded, or files to be unpickled."""


def check_trust(path: object, builder: Builder | None, trust: Sequence[str]) -> Builder:
    """The builder; ArchitectureError if the file at `path` names none, or one that must not run.

    trust: modules, or single callables as module:callable, trusted wherever they were defined.
    What counts of a module is where the callable is named, then where it was defined: a trusted
    module imports others'. Of TRUSTED_BUILDERS only what says that it returns a network may run:
    they hold helpers too; and never what is in a private module, which looks others up by name.
    Nothing is imported that is not trusted.
    """

    if builder is None:
        raise ArchitectureError(
            f"{path} is of a network of one's own and does not say what makes it: in Python, "
            "copycat.load(path, model=…) takes the network before it was pruned"
        )

    def check(module: str) -> None:
        if not (is_trusted_by_default(module) or is_within(module, trust)):
            raise ArchitectureError(
                f"{path} is built by {builder.target!r} of {module!r}, which is not trusted: "
                f"if it is yours, allow it by name: --trust {module}, in Python trust=[{module!r}]"
            )

    if builder.target in trust:
        check_no_download(path, builder)
        return builder
    check(builder.module)
    function = builder.function()
    home = str(getattr(function, "__module__", None))
    check(home)
    is_helper = is_within(home, TRUSTED_BUILDERS) and _is_private(home)
    if is_helper or not (is_within(home, trust) or _makes_network(builder, function)):
        raise ArchitectureError(f"{path} is built by {builder.target!r}, which makes no networks")
    check_no_download(path, builder)
    return builder


def check_no_download(path: object, builder: Builder) -> None:
    """ArchitectureError if `builder` is a library's and asks for weights to be downloaded."""
    beginnings = tuple(
        beginning
        for package, beginnings in _DOWNLOADING.items()
        if any(is_within(module, (package,)) for module in builder.modules)
        for beginning in beginnings
    )
    effective = _defaults(builder.function()) | dict(builder.arguments) if beginnings else {}
    for name, value in effective.items():
        if name.startswith(beginnings) and value is not None and value is not False:
            raise ArchitectureError(
                f"{path} is built by {builder.target!r} with {name}={value!r}, which would "
                f"download weights: pass {name}=None, the weights are in the folder"
            )


def is_trusted_by_default(module: str) -> bool:
    """Whether networks of this module are built without anyone naming it."""
    return is_within(module, TRUSTED_BUILDERS)


def is_within(module: str, packages: Sequence[str]) -> bool:
    """Whether `module` is one of these packages or in one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


def _makes_network(builder: Builder, function: Callable[..., object]) -> bool:
    """Whether the callable says that it returns a network, or timm lists it among its networks."""
    if builder.module == "timm.models":
        listed: list[str] = importlib.import_module("timm").list_models()
        return builder.target.partition(":")[2] in listed
    try:
        returned = get_type_hints(function).get("return")
    except (NameError, TypeError):  # it says something that nobody can read
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _defaults(function: Callable[..., object]) -> dict[str, object]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return {}
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
