"""How a base network is made: a callable, by name, and its arguments."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from torch import nn

from pruning.errors import ModelError, reason_with_place
from pruning.networks.wrappers import unwrapped

_EXTRAS = {"timm": "timm"}
"""The extra that brings a package which is not installed with Espalier."""


@dataclass(frozen=True)
class Builder:
    """Makes a base network again: `target` is "module:callable".

    `arguments` are keyword arguments that JSON can hold, so that the pair can be stored in an
    architecture file. Modules in the working directory can be named.
    """

    target: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module that the target is looked up in."""
        return self.target.partition(":")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules in which the target is looked up and defined."""
        return (self.module, str(getattr(self.function(), "__module__", self.module)))

    def __call__(self) -> nn.Module:
        """Call the target; fresh weights come from torch's global generator.

        What is around the network (DataParallel, torch.compile) is left off: a stored network
        is the network itself.
        Raises ModelError if the target cannot be imported, raises, or returns anything but a
        torch.nn.Module.
        """
        with current_directory_importable():
            make = _load(self.target)
            try:
                model = make(**self.arguments)
            except ModelError:
                raise
            except (Exception, SystemExit) as error:
                raise ModelError(f"{self.target} failed: {reason_with_place(error)}") from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.target} must return a torch.nn.Module, got {type(model).__name__}"
            )
        return unwrapped(model)

    def function(self) -> Callable[..., object]:
        """The target itself; raises ModelError if it cannot be imported."""
        with current_directory_importable():
            return _load(self.target)


def _load(target: str) -> Callable[..., object]:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"a network of your own is given as module:callable, got {target!r}")
    module = _import(module_name)
    try:
        target_object: object = operator.attrgetter(attribute)(module)
    except AttributeError:
        raise ModelError(f"module {module_name!r} has no attribute {attribute!r}") from None
    if not callable(target_object):
        raise ModelError(f"{target} must be callable, got {type(target_object).__name__}")
    return target_object


def _import(module_name: str) -> ModuleType:
    if module_name not in sys.modules:  # it may have been written a moment ago
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        package = module_name.partition(".")[0]
        if package in _EXTRAS and isinstance(error, ModuleNotFoundError):
            raise not_installed(package) from error
        reason = _reason(error)
        if module_name.endswith(".py") and isinstance(error, ModuleNotFoundError):
            reason = f"the module of a file is named {Path(module_name).stem!r}, without '.py'"
        raise ModelError(f"cannot import {module_name!r}: {reason}") from error


def not_installed(package: str) -> ModelError:
    """The error for a package that one of Espalier's extras brings."""
    return ModelError(f"{package} is not installed: pip install 'espalier[{_EXTRAS[package]}]'")


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Let imports see the working directory, after all that is installed.

    Otherwise a file beside a stored architecture could pose as a module that is trusted.
    """
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with suppress(ValueError):  # an imported module may have edited the path
            sys.path.remove(here)
