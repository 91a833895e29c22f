"""What a network keeps outside of itself: in its classes, and in the files they are written in.

Such as a cache of positions by the size of the image, in a global dictionary, an attribute of a
class or behind `functools.lru_cache`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

_Owner = type | ModuleType
_Cached = type(functools.cache(print))
_PLAIN = (Tensor, dict, list, set, tuple, int, float, str, type(None))
_NOT_OF_NETWORKS = frozenset({"torch", "numpy", "builtins", *sys.stdlib_module_names})


@contextmanager
def state_outside_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards what runs of `model` have left outside of it is gone.

    Tensors, numbers and collections of the classes of its modules, of the files in which these
    are written, and of those of the functions in there are what they were; of collections in
    collections only the outer one. Caches of functions that were called anew are empty.
    """
    owners = _owners(model)
    before = [(owner, _plain_values(owner)) for owner in owners]
    contents = {
        id(value): (value, value.copy())
        for _, values in before
        for value in values.values()
        if isinstance(value, dict | list | set)
    }
    caches = [(cache, cache.cache_info().misses) for owner in owners for cache in _caches(owner)]
    try:
        yield
    finally:
        for owner, values in before:
            _restore(owner, values)
        for value, content in contents.values():
            if not _is_same(value, content):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(content)
        for cache, misses in caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _owners(model: nn.Module) -> list[_Owner]:
    classes = {
        kind: None
        for own in dict.fromkeys(map(type, model.modules()))
        for kind in own.__mro__
        if _is_of_networks(kind.__module__)
    }
    files = _files(kind.__module__ for kind in classes)
    called = _files(
        value.__module__
        for file in files
        for value in vars(file).values()
        if isinstance(value, FunctionType | _Cached)
    )
    return [*classes, *dict.fromkeys((*files, *called))]


def _files(names: Iterator[str]) -> list[ModuleType]:
    known = dict.fromkeys(name for name in names if name and _is_of_networks(name))
    return [sys.modules[name] for name in known if name in sys.modules]


def _is_of_networks(module_name: str) -> bool:
    return module_name.partition(".")[0] not in _NOT_OF_NETWORKS


def _plain_values(owner: _Owner) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(owner).items()
        if isinstance(value, _PLAIN) and not name.startswith("__")
    }


def _caches(owner: _Owner) -> list[Any]:
    return [value for value in vars(owner).values() if isinstance(value, _Cached)]


def _restore(owner: _Owner, values: Mapping[str, Any]) -> None:
    for name, value in _plain_values(owner).items():
        if name not in values:
            delattr(owner, name)
        elif value is not values[name]:
            setattr(owner, name, values[name])


def _is_same(value: Any, content: Any) -> bool:
    """Whether a collection holds the very same things as before."""
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        return all(key in content and content[key] is item for key, item in value.items())
    return all(one is other for one, other in zip(value, content, strict=True))
