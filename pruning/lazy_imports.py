"""Modules that are imported when something of them is first used, not before.

torch takes two seconds to import, Ray and MLflow one each; a command that prints its help, refuses
its input or asks a server needs none of them. Beside the imports for the type checker stands

    if TYPE_CHECKING:
        from search.studies import search_study
    else:
        (search_study,) = lazy_modules("search.studies.search_study")

after which `search_study.run` imports the module, as does any other of its names. This is the one
way to import late in Espalier; packages that offer names of their modules do it by `__getattr__`.
"""

from __future__ import annotations

import importlib
from typing import Any, final


@final
class LazyModule:
    """Stands for the module `name` until an attribute is asked for, and passes on all of them."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyModule, (self.__name__,)  # without a name it would look for one for ever

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


def lazy_modules(*names: str) -> tuple[LazyModule, ...]:
    """A stand-in for each module, in this order."""
    return tuple(map(LazyModule, names))
