"""From a name in the settings to a task."""

from __future__ import annotations

import difflib

from pruning.errors import ConfigError
from search.tasks.classification import Classification
from search.tasks.task import Task

_TASKS: dict[str, type[Task]] = {"classification": Classification}


def resolve(name: str) -> Task:
    """The task called `name`; ConfigError if there is none."""
    if name not in _TASKS:
        close = difflib.get_close_matches(name, _TASKS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_TASKS)}"
        raise ConfigError(f"no task is called {name!r}; {hint}", field="task")
    return _TASKS[name]()
