"""What a client may ask of a service: checked before anything is looked up, opened or imported."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.errors import ConfigError
from search.config.model_arguments import model_arguments
from search.config.resources_config import seconds
from search.config.search_config import BUILDER, TIMM, TORCHVISION
from search.service.access.settings_body import check_size, leaves
from search.service.problem_details import ProblemError
from search.service.service_config import LimitsConfig
from search.storage.layout import StudyKind

_MAX_VALUES = {
    "training.batch_size": 65_536,
    "seeds": 1000,
    "profiles": 1000,
    "resources.cpus_per_trial": 1024,
    "data.workers": 64,
}
"""Larger values would only use up memory; the operator sets the other limits."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_RESERVED_NAMES = re.compile(r"(?i:service\.db|audit\.jsonl|mlflow|mlruns|mlartifacts).*")
"""Files beside the folders of searches."""

_WIDE_RESNET = re.compile(r"wrn-(\d+)-(\d+)")
_MAX_DEPTH, _MAX_WIDTH = 400, 32
_FILES = ("imagefolder:", "csv:")
"""How data begin that are a path."""

SERVER_SETTINGS = frozenset(
    {
        *("runs", "mlflow_url", "device", "trust", "data.root", "data.download"),
        *("resources.ray_address", "resources.memory_gb", "study.storage"),
    }
)
_LIBRARIES = ("torchvision", "timm")
"""Whose networks all may ask for: weights and files are no arguments of theirs, see below."""

_HOUR = 3600


@dataclass(frozen=True)
class SettingsPolicy:
    """What the operator allows.

    data_root: the folder that image folders, tables, data sets, weights and teachers lie below.
    builders: module:callable of networks beside the zoo's and torchvision's, and of data.
    register_as: names in MLflow's registry that searches may register networks under.
    tasks: module:callable of tasks beside those of this package.
    """

    data_root: Path
    builders: tuple[str, ...] = ()
    register_as: tuple[str, ...] = ()
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    tasks: tuple[str, ...] = ()

    def resolve(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with paths as the server has them; ProblemError 422 for what is forbidden.

        Whether they make sense is left to search.config.search_config.
        """
        for name, value in leaves(content):
            check_size(name, value)
            if name in SERVER_SETTINGS:
                raise ProblemError(422, f"{name} is the server's to decide: leave it out", name)
        self.require_limits(content)
        _check_name(content.get("name"))
        self._check_model(content.get("model"))
        _check_model_arguments(content.get("model_arg"))
        self._check_task(content.get("task"))
        self._check_register(content.get("register"))
        settings = dict(content)
        resources = _table(content, "resources")
        if isinstance(resources, Mapping):
            settings["resources"] = {
                **resources,
                **self._time_budget(resources.get("time_budget", "")),
                "memory_gb": self.limits.memory_gb,
            }
        settings |= self._weights(content.get("weights"))
        settings["data"] = self._data(_table(content, "data"))
        training = _table(content, "training")
        if isinstance(training, Mapping) and isinstance(training.get("distill_from"), str):
            teacher = training["distill_from"]
            if teacher:
                path = self._below(teacher, "training.distill_from")
                settings["training"] = {**training, "distill_from": str(path)}
        return settings

    def resolve_stored(
        self, settings: Mapping[str, Any], kind: StudyKind = "search"
    ) -> dict[str, Any]:
        """Settings that were stored, by this service or not, as a search may go on with them.

        As `resolve`, but what is the server's to decide is set anew, not refused. Raises
        ProblemError 409 for an Optuna study that is kept elsewhere, which would be lost so.
        """
        study = _table(require_shape(settings, kind), "study")
        if isinstance(study, Mapping) and study.get("storage"):
            raise ProblemError(409, "its study is kept in a database elsewhere (study.storage)")
        return self.resolve(_without_server_settings(settings))

    def shown(self, text: str) -> str:
        """What clients are told: files below the data root under the names that they gave."""
        return text.replace(f"{self.data_root.resolve()}/", "").replace(f"{self.data_root}/", "")

    def require_limits(self, settings: Mapping[str, Any]) -> None:
        """ProblemError 422 for what is more than the operator lets clients ask for.

        Defaults count too, which are there once search.config.search_config has filled them in.
        """
        limits = self.limits
        largest = _MAX_VALUES | {
            "data.image_size": limits.most_image_size,
            "trials": limits.most_trials,
            "concurrency": limits.most_concurrency,
        }
        for name in ("epochs", "fine_tune_epochs", "scratch_epochs"):
            largest[f"training.{name}"] = limits.most_epochs
        largest["gates.settle_epochs"] = limits.most_epochs
        for name, value in leaves(settings):
            if name in largest and isinstance(value, int | float) and value > largest[name]:
                limit = largest[name]
                raise ProblemError(422, f"{name} must be at most {limit}, got {value}", name)

    def _time_budget(self, requested: object) -> dict[str, str]:
        """The operator's, unless a search asks for less, which its settings then check."""
        max_hours = self.limits.most_hours
        if max_hours is None:
            return {}
        try:
            own = seconds("time_budget", requested) if isinstance(requested, str) else 0
        except ConfigError:
            own = 0
        if own is not None and own <= max_hours * _HOUR:
            return {}
        return {"time_budget": f"{max_hours * _HOUR:.0f}s"}

    def _check_register(self, name: object) -> None:
        if not isinstance(name, str) or not name or name in self.register_as:
            return
        allowed = ", ".join(self.register_as) if self.register_as else "none so far"
        raise ProblemError(
            422,
            f"networks may be registered under names that this server's operator has allowed "
            f"(--register-as), not {name}: {allowed}",
            "register",
        )

    def _check_model(self, model: object) -> None:
        if not isinstance(model, str) or model in self.builders:
            return
        _check_wide_resnet(model)
        if ":" not in model:
            return
        if model.partition(":")[0] in _LIBRARIES:
            return
        raise _not_allowed(model, "model", "--builder", self.builders)

    def _check_task(self, task: object) -> None:
        if isinstance(task, str) and ":" in task and task not in self.tasks:
            raise _not_allowed(task, "task", "--task", self.tasks)

    def _weights(self, weights: object) -> dict[str, str]:
        """Where they name a file, its path: below the data root, as teachers are."""
        if not isinstance(weights, str) or weights in ("", BUILDER):
            return {}
        if weights.startswith((TORCHVISION, TIMM)):
            return {}
        return {"weights": str(self._below(weights, "weights"))}

    def _data(self, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        source = data.get("source")
        settings = {**data, "root": str(self.data_root)}
        if not isinstance(source, str):
            return settings
        kind, colon, path = source.partition(":")
        if kind + colon in _FILES:
            settings["source"] = f"{kind}:{self._below(path, 'data.source')}"
        elif colon and source not in self.builders:
            raise _not_allowed(source, "data.source", "--builder", self.builders)
        return settings

    def _below(self, path: str, field: str) -> Path:
        """The path, taken from the data root, with links resolved."""
        root = self.data_root.resolve()
        refusal = ProblemError(422, f"{field} must lie below the server's data folder", field)
        if "\0" in path:
            raise refusal
        try:
            resolved = (root / path).resolve()
        except (OSError, RuntimeError):
            raise refusal from None
        if root not in resolved.parents:
            raise refusal
        return resolved


def _not_allowed(code: str, field: str, flag: str, allowed: tuple[str, ...]) -> ProblemError:
    names = ", ".join(allowed) if allowed else "none so far"
    return ProblemError(
        422, f"{code} is code that this server's operator has not allowed ({flag}): {names}", field
    )


def _without_server_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings, and those in their tables, that clients decide."""
    return {
        name: _without_server_settings(value, f"{name}.")
        if isinstance(value, Mapping) and not prefix
        else value
        for name, value in settings.items()
        if prefix + name not in SERVER_SETTINGS
    }


_SUBJECTS: Mapping[StudyKind, str] = {
    "search": "model",
    "family": "source",
    "correlation": "model",
}
_BUDGETS: Mapping[StudyKind, str] = {"search": "budget", "family": "budgets"}
"""The setting that names the network of a study, and that which holds bounds, if there is one."""


def require_shape(content: object, kind: StudyKind = "search") -> Mapping[str, Any]:
    """The content, if it can be the settings of such a study; ProblemError 409 otherwise.

    Types alone, of what is shown of every study.
    """
    subject, bounds = _SUBJECTS[kind], _BUDGETS.get(kind)
    if isinstance(content, Mapping):
        budget, data = content.get(bounds) if bounds else [], content.get("data", {})
        if (
            isinstance(content.get(subject), str)
            and content[subject]
            and isinstance(content.get("model", ""), str)
            and isinstance(budget, list)
            and all(isinstance(bound, str) for bound in budget)
            and isinstance(data, Mapping)
            and isinstance(data.get("source", ""), str)
        ):
            return content
    listed = f", a list of bounds ({bounds})" if bounds else ""
    raise ProblemError(409, f"settings hold a {subject}{listed} and a table data")


def _check_name(name: object) -> None:
    """It becomes a folder, and part of the addresses under which the search is found."""
    if not isinstance(name, str) or not name:
        return
    if _NAME.fullmatch(name) is None:
        raise ProblemError(
            422, "name has ASCII letters, digits and . _ + - only, a letter or digit first", "name"
        )
    if _RESERVED_NAMES.fullmatch(name) is not None:
        raise ProblemError(422, f"{name} is the name of a file of this server", "name")


def _check_model_arguments(texts: object) -> None:
    """Numbers, true and false alone: a text may name a file or an address."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return  # the settings will say so
    try:
        arguments = model_arguments(texts)
    except ConfigError:
        return
    for name, value in arguments.items():
        if not isinstance(value, bool | int | float):
            raise ProblemError(
                422, f"model_arg gives numbers, true and false on a server, not {name}", "model_arg"
            )


def _check_wide_resnet(model: str) -> None:
    match = _WIDE_RESNET.fullmatch(model)
    if match is None:
        return
    sizes = [int(digits) if len(digits) < 6 else math.inf for digits in match.groups()]
    if sizes[0] > _MAX_DEPTH or sizes[1] > _MAX_WIDTH:
        largest = f"wrn-{_MAX_DEPTH}-{_MAX_WIDTH}"
        raise ProblemError(422, f"a wide ResNet here is at most {largest}, got {model}", "model")


def _table(content: Mapping[str, Any], name: str) -> object:
    return content.get(name, {})
