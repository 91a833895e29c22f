"""Whose code may run that is named in a file: a folder may have come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from copycat.architecture.trust import is_within
from pruning.errors import DataError, EspalierError
from search.config.data_config import DataConfig


def require_trusted_data(config: DataConfig, trust: Sequence[str], origin: object) -> None:
    """DataError if the data, as `origin` has them, are code that nobody allowed by name."""
    require_trusted_code(
        config.source, config.own_module, trust, f"{origin} names the data", DataError
    )


def require_trusted_code(
    name: str, module: str, trust: Sequence[str], words: str, error: type[EspalierError]
) -> None:
    """An error, which begins with `words`, if `name` is code that nobody allowed by name.

    module: that it is looked up in; empty for what is no code.
    trust: modules, or callables as module:callable.
    """
    if module and name not in trust and not is_within(module, trust):
        raise error(
            f"{words} {name}, which is code: if it is yours, allow it by name: --trust {module}"
        )
