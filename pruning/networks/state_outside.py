"""What a network keeps outside of itself: in its classes, and in the files they are written in.

Such as a cache of positions by the size of the image, in a global dictionary, an attribute of a
class or behind `functools.lru_cache`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from pruning.networks.nested_tensors import tensors_in

_Owner = type | ModuleType
_Cached = type(functools.cache(print))
_PLAIN = (Tensor, dict, list, set, tuple, int, float, str, type(None))
_NOT_OF_NETWORKS = frozenset({"torch", "numpy", "builtins", *sys.stdlib_module_names})


@contextmanager
def state_outside_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the tensors that runs of `model` have left outside of it are gone.

    A class of its modules, a file in which one is written, or one of the functions in there, in
    which a tensor was left, has again the tensors, numbers and collections that it had; of
    collections in collections only the outer one. Others are left alone, since more than the
    network may write there. Caches of functions that were called anew are empty.
    """
    before = [_Remembered(owner) for owner in _owners(model)]
    try:
        yield
    finally:
        for remembered in before:
            remembered.restore()


class _Remembered:
    """What a class or a file holds now."""

    def __init__(self, owner: _Owner) -> None:
        self._owner, self._values = owner, _plain_values(owner)
        self._contents = {
            name: value.copy()
            for name, value in self._values.items()
            if isinstance(value, dict | list | set)
        }
        caches = (value for value in vars(owner).values() if isinstance(value, _Cached))
        self._caches = [(cache, cache.cache_info().misses) for cache in caches]

    def restore(self) -> None:
        """Put it back where a tensor has come in."""
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()
        if next(tensors_in(list(self._new())), None) is None:
            return
        for name in _plain_values(self._owner).keys() - self._values.keys():
            delattr(self._owner, name)
        for name, value in self._values.items():
            if vars(self._owner).get(name) is not value:
                setattr(self._owner, name, value)
        for name, content in self._contents.items():
            value = self._values[name]
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)

    def _new(self) -> Iterator[Any]:
        """Values that are others now, and what has come into collections."""
        for name, value in _plain_values(self._owner).items():
            if name not in self._values or value is not self._values[name]:
                yield value
            elif name in self._contents:
                known = {id(item) for item in _items(self._contents[name])}
                yield from (item for item in _items(value) if id(item) not in known)


def _items(collection: Any) -> Collection[Any]:
    return collection.values() if isinstance(collection, dict) else collection


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
