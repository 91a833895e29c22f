"""What a shell offers when Tab is pressed: names of networks, data, methods, searches …

A shell waits for it, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from pruning.lazy_imports import lazy_modules
from search.storage.layout import ARCHITECTURES_FOLDER, SETTINGS_FILES

if TYPE_CHECKING:
    from search.config import methods, search_config, settings, training_config
else:
    methods, search_config, settings, training_config = lazy_modules(
        *("search.config.methods", "search.config.search_config", "search.config.settings"),
        "search.config.training_config",
    )

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""Of the command's context, the parameter and what is typed of it so far."""

Names = Callable[[], Iterable[str]]

DEFAULT_RUNS = "espalier-runs"

MODELS = (
    *("digits-resnet", "digits-vgg", "lenet3", "mobilenetv2", "preact-resnet18"),
    *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "vgg16", "vgg16-fc"),
    *("wrn-16-4", "wrn-28-10", "wrn-40-1", "wrn-40-2", "wrn-40-4"),
)
DATA = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist")
TASKS = ("classification", "multilabel", "segmentation", "regression")
GRANULARITIES = ("filter", "layer", "full-layer", "branch", "block")
"""Names that search.models, search.data, search.tasks and pruning know, which import torch."""


def one_of(names: Names) -> Completion:
    """Any of these names."""
    return lambda _, __, typed: _beginning_with(typed, names())


def several_of(names: Names, separators: str = ",") -> Completion:
    """These names, joined by one of the separators: what stands before the last one stays."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        length = max(typed.rfind(separator) for separator in separators) + 1
        return _beginning_with(typed, (typed[:length] + name for name in names()))

    return complete


def paths(kind: Literal["file", "dir"]) -> Completion:
    """Files, or folders alone, as the shell itself finds them."""
    return lambda _, __, typed: [CompletionItem(typed, type=kind)]


def studies(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The searches and other studies in the folder of --runs."""
    files = (file for name in SETTINGS_FILES.values() for file in _runs(context).glob(f"*/{name}"))
    return _beginning_with(typed, sorted({file.parent.name for file in files}))


def stored_networks(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The networks of all searches in the folder of --runs, as SEARCH/NAME."""
    runs, pattern = _runs(context), f"*/{ARCHITECTURES_FOLDER}/*/architecture.json"
    folders = (file.parent.relative_to(runs) for file in runs.glob(pattern))
    return _beginning_with(typed, sorted(f"{path.parts[0]}/{path.name}" for path in folders))


def networks(
    context: click.Context, parameter: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Networks of the zoo and those of all searches."""
    return [*_beginning_with(typed, MODELS), *stored_networks(context, parameter, typed)]


def of_setting(cls: type[Any], name: str) -> Completion | None:
    """What is offered for the flag of the field `name` of settings; None for nothing."""
    try:
        values = settings.choices(cls, name)
    except IndexError:  # they are not among a few
        return _OF_SETTINGS.get(name)
    return one_of(lambda: values)


RECIPES = one_of(lambda: training_config.TrainingConfig.RECIPES)

_OF_SETTINGS: Mapping[str, Completion] = {
    "model": one_of(lambda: MODELS),
    "source": one_of(lambda: DATA),
    "task": one_of(lambda: TASKS),
    "criterion": several_of(lambda: methods.METHODS),
    "granularity": several_of(lambda: GRANULARITIES, ",+"),
    "schedule": several_of(lambda: search_config.SCHEDULES),
    "weights": paths("file"),
    "runs": paths("dir"),
    "root": paths("dir"),
    "data_root": paths("dir"),
}


def _runs(context: click.Context) -> Path:
    return Path(context.params.get("runs") or DEFAULT_RUNS)


def _beginning_with(typed: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(typed)]
