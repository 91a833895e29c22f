"""What a client may ask of a service: checked before anything is looked up, opened or imported."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.errors import ConfigError
from search.config.options import seconds
from search.service.problem_details import ProblemError
from search.service.service_config import LimitsConfig

MOST_BYTES = 64 * 1024
"""Of a request's body."""

_MOST_CHARACTERS, _MOST_ITEMS, _MOST_NAME = 300, 64, 80
_MOST_DOTS = 200
"""Of a line of TOML, whose reader takes the square of the time for a key of twice the parts."""

_MOST = {
    "training.batch_size": 65_536,
    "seeds": 1000,
    "profiles": 1000,
    "resources.cpus_per_trial": 1024,
}
"""What would only use up memory above; the operator sets others."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_NOT_NAMES = re.compile(r"(?i:service\.db|audit\.jsonl|mlflow|mlruns|mlartifacts).*")
"""Files beside the folders of searches."""

_WIDE_RESNET = re.compile(r"wrn-(\d+)-(\d+)")
_MOST_DEPTH, _MOST_WIDTH = 400, 32
_IMAGE_FOLDER = "imagefolder:"
OF_THE_SERVER = frozenset(
    {
        *("runs", "mlflow_url", "device", "data.root", "data.download"),
        *("resources.ray_address", "resources.memory_gb", "study.storage"),
    }
)
_TORCHVISION = "torchvision"
_HOUR = 3600


@dataclass(frozen=True)
class Rules:
    """What the operator allows.

    data_root: the folder that image folders, data sets and teachers lie below.
    builders: module:callable of networks beside the zoo's and torchvision's.
    registered: names in MLflow's registry that searches may register networks under.
    """

    data_root: Path
    builders: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with paths as the server has them; ProblemError 422 for what is forbidden.

        Whether they mean anything is left to search.config.search_config.
        """
        for name, value in _leaves(content):
            _check_size(name, value)
            if name in OF_THE_SERVER:
                raise ProblemError(422, f"{name} is the server's to decide: leave it out", name)
        self.require_limits(content)
        _check_name(content.get("name"))
        self._check_model(content.get("model"))
        self._check_register(content.get("register"))
        settings = dict(content)
        resources = _table(content, "resources")
        if isinstance(resources, Mapping):
            settings["resources"] = {
                **resources,
                **self._time_budget(resources.get("time_budget", "")),
                "memory_gb": self.limits.memory_gb,
            }
        settings["data"] = self._data(_table(content, "data"))
        training = _table(content, "training")
        if isinstance(training, Mapping) and isinstance(training.get("distill_from"), str):
            teacher = training["distill_from"]
            if teacher:
                found = self._below(teacher, "training.distill_from")
                settings["training"] = {**training, "distill_from": str(found)}
        return settings

    def stored(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that were stored, by this service or not, as a search may go on with them.

        As `settings`, but what is the server's to decide is set anew, not refused. Raises
        ProblemError 409 for an Optuna study that is kept elsewhere, which would be lost so.
        """
        study = _table(require_shape(settings), "study")
        if isinstance(study, Mapping) and study.get("storage"):
            raise ProblemError(409, "its study is kept in a database elsewhere (study.storage)")
        return self.settings(_for_clients(settings))

    def require_limits(self, settings: Mapping[str, Any]) -> None:
        """ProblemError 422 for what is more than the operator lets clients ask for.

        Defaults count too, which are there once search.config.search_config has filled them in.
        """
        limits = self.limits
        most = _MOST | {
            "data.image_size": limits.most_image_size,
            "trials": limits.most_trials,
            "concurrency": limits.most_concurrency,
        }
        for name in ("epochs", "fine_tune_epochs", "scratch_epochs"):
            most[f"training.{name}"] = limits.most_epochs
        for name, value in _leaves(settings):
            if name in most and isinstance(value, int | float) and value > most[name]:
                raise ProblemError(422, f"{name} must be at most {most[name]}, got {value}", name)

    def _time_budget(self, asked: object) -> dict[str, str]:
        """The operator's, unless a search is content with less; its settings judge it then."""
        most = self.limits.most_hours
        if most is None:
            return {}
        try:
            own = seconds("time_budget", asked) if isinstance(asked, str) else 0
        except ConfigError:
            own = 0
        if own is not None and own <= most * _HOUR:
            return {}
        return {"time_budget": f"{most * _HOUR:.0f}s"}

    def _check_register(self, name: object) -> None:
        if not isinstance(name, str) or not name or name in self.registered:
            return
        allowed = ", ".join(self.registered) if self.registered else "none so far"
        raise ProblemError(
            422,
            f"networks may be registered under names that this server's operator has allowed "
            f"(--register-as), not {name}: {allowed}",
            "register",
        )

    def _check_model(self, model: object) -> None:
        if not isinstance(model, str) or model in self.builders:
            return
        _check_wide(model)
        if ":" not in model:
            return
        if model.partition(":")[0] == _TORCHVISION:
            return
        allowed = ", ".join(self.builders) if self.builders else "none so far"
        raise ProblemError(
            422,
            f"{model} is code that this server's operator has not allowed (--builder): {allowed}",
            "model",
        )

    def _data(self, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        source = data.get("source")
        settings = {**data, "root": str(self.data_root)}
        if isinstance(source, str) and source.startswith(_IMAGE_FOLDER):
            folder = self._below(source.removeprefix(_IMAGE_FOLDER), "data.source")
            settings["source"] = f"{_IMAGE_FOLDER}{folder}"
        return settings

    def _below(self, path: str, field: str) -> Path:
        """The path, taken from the data root, with links resolved."""
        root = self.data_root.resolve()
        refusal = ProblemError(422, f"{field} must lie below the server's data folder", field)
        if "\0" in path:
            raise refusal
        try:
            found = (root / path).resolve()
        except (OSError, RuntimeError):
            raise refusal from None
        if root not in found.parents:
            raise refusal
        return found


def _for_clients(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those among the settings, and in their tables, that are not the server's to decide."""
    return {
        name: _for_clients(value, f"{name}.")
        if isinstance(value, Mapping) and not prefix
        else value
        for name, value in settings.items()
        if prefix + name not in OF_THE_SERVER
    }


def require_shape(content: object) -> Mapping[str, Any]:
    """The content, if it can be the settings of a search; ProblemError 409 otherwise.

    Types alone, of what is shown of every search.
    """
    if isinstance(content, Mapping):
        budget, data = content.get("budget"), content.get("data", {})
        if (
            isinstance(content.get("model"), str)
            and content["model"]
            and isinstance(budget, list)
            and all(isinstance(bound, str) for bound in budget)
            and isinstance(data, Mapping)
            and isinstance(data.get("source", ""), str)
        ):
            return content
    raise ProblemError(409, "settings hold a model, a list of bounds (budget) and a table data")


def parsed(body: bytes, media_type: str) -> Mapping[str, Any]:
    """The settings in a request's body, JSON or TOML; ProblemError for anything else."""
    kind = media_type.partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/toml"):
        raise ProblemError(415, "settings come as application/json or application/toml")
    try:
        text = body.decode()
        if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            raise ProblemError(400, f"a line of settings has at most {_MOST_DOTS} dots")
        content = (
            json.loads(text, parse_constant=_no_number)
            if kind == "application/json"
            else tomllib.loads(text)
        )
    except RecursionError:
        raise ProblemError(400, "the settings are nested too deeply") from None
    except ValueError as error:
        raise ProblemError(400, f"the body is not {kind.partition('/')[2]}: {error}") from None
    if not isinstance(content, Mapping):
        raise ProblemError(422, "settings are an object with a value for each of their names")
    for name, value in _leaves(content):
        _check_size(name, value)
    return content


def _check_name(name: object) -> None:
    """It becomes a folder, and part of the addresses under which the search is found."""
    if not isinstance(name, str) or not name:
        return
    if _NAME.fullmatch(name) is None:
        raise ProblemError(
            422, "name has ASCII letters, digits and . _ + - only, a letter or digit first", "name"
        )
    if _NOT_NAMES.fullmatch(name) is not None:
        raise ProblemError(422, f"{name} is the name of a file of this server", "name")


def _check_wide(model: str) -> None:
    found = _WIDE_RESNET.fullmatch(model)
    if found is None:
        return
    sizes = [int(digits) if len(digits) < 6 else math.inf for digits in found.groups()]
    if sizes[0] > _MOST_DEPTH or sizes[1] > _MOST_WIDTH:
        most = f"wrn-{_MOST_DEPTH}-{_MOST_WIDTH}"
        raise ProblemError(422, f"a wide ResNet here is at most {most}, got {model}", "model")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _table(content: Mapping[str, Any], name: str) -> object:
    return content.get(name, {})


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names such as training.epochs and what they are set to, two levels deep."""
    for name, value in content.items():
        _check_size("a name", name)
        if isinstance(value, Mapping) and not prefix:
            yield from _leaves(value, f"{name}.")
        else:
            yield prefix + name, value


def _check_size(field: str, value: object) -> None:
    many = value if isinstance(value, list) else [value]
    if len(many) > _MOST_ITEMS:
        raise ProblemError(422, f"{field} has more than {_MOST_ITEMS} items", field)
    for item in many:
        most = _MOST_NAME if field == "name" else _MOST_CHARACTERS
        if isinstance(item, str) and (len(item) > most or not item.isprintable()):
            raise ProblemError(422, f"{field} must be at most {most} printable characters", field)
        if isinstance(item, int | float) and not abs(item) < 2**53:
            raise ProblemError(422, f"{field} is too large a number", field)
        if isinstance(item, list | dict):
            raise ProblemError(422, f"{field} is nested too deeply", field)
