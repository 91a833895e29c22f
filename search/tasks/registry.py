"""From a name in the settings to a task."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from copycat.builder import Builder
from pruning.errors import ConfigError, EspalierError, ModelError, reason_with_place
from search.data.trusted_code import require_trusted_code
from search.tasks.classification import Classification
from search.tasks.multilabel import Multilabel
from search.tasks.regression import Regression
from search.tasks.segmentation import Segmentation
from search.tasks.task import Task, require_task

_TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "segmentation": Segmentation,
    "regression": Regression,
}

_IN_PYTHON = "python:"


def names() -> tuple[str, ...]:
    """Every task that there is."""
    return tuple(_TASKS)


def resolve(name: str) -> Task:
    """The task called `name`, or that a module:callable of the user's own makes.

    Raises ConfigError if there is none, or what is made is no task.
    """
    if name in _TASKS:
        return _TASKS[name]()
    if name.startswith(_IN_PYTHON):
        raise ConfigError(
            f"the task {name.removeprefix(_IN_PYTHON)} was given in Python: go on there with "
            "search.run(config, task=…); a search that is to go on here names it as "
            "--task module:callable",
            field="task",
        )
    if ":" in name:
        return require_task(_made(name), name)
    close = difflib.get_close_matches(name, _TASKS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_TASKS)}"
    raise ConfigError(
        f"no task is called {name!r}; {hint}; module:callable also works", field="task"
    )


def own_module(name: str) -> str:
    """The module of the user's own that `name` would import; empty for all other tasks."""
    is_own = ":" in name and not name.startswith(_IN_PYTHON)
    return name.partition(":")[0] if is_own else ""


def require_trusted(name: str, trust: Sequence[str], origin: object) -> None:
    """ModelError if the task `name`, as `origin` has it, is code that nobody allowed by name."""
    require_trusted_code(name, own_module(name), trust, f"{origin} names the task", ModelError)


def name_in_settings(task: Task) -> str:
    """What settings call a task that was given in Python: no name that makes it again."""
    kind = type(task)
    return f"{_IN_PYTHON}{kind.__module__}.{kind.__qualname__}"


def _made(name: str) -> object:
    try:
        make = Builder(name).function()
    except ModelError as error:
        raise ConfigError(f"the task {name}: {error}", field="task") from error
    try:
        return make()
    except EspalierError:
        raise
    except (Exception, SystemExit) as error:  # a user's task may raise anything
        reason = reason_with_place(error)
        raise ConfigError(f"the task {name} failed: {reason}", field="task") from error
