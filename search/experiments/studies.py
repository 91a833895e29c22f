"""The runs that experiments are made of, and what is read off each of them.

A run is an ordinary study of this project: what `espalier search`, `family` or `correlate` do with
the same settings, in a folder of its own, so that it is continued, listed and watched as they are.
Two more kinds have no command: `removal` (search.experiments.removal) and `count`
(search.experiments.counting), which trains nothing.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import shlex
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from rich.console import Console

from copycat.architecture import read
from pruning.cost import Bound, Budget
from pruning.errors import ConfigError
from search.config.correlation_config import CorrelationConfig
from search.config.explicit_settings import as_arguments, explicit_settings
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.experiments.counting import CountConfig, counted
from search.experiments.removal import RemovalConfig, Trajectories, removal_study
from search.results.correlation import COEFFICIENTS
from search.results.correlation_report import CorrelationResults
from search.results.correlation_report import read_results as read_correlation
from search.results.family_results import FamilyStudy
from search.results.pictures import widths_left
from search.results.report import Results, open_results
from search.storage.layout import (
    ARCHITECTURES_FOLDER,
    BASE_ARCHITECTURE,
    CORRELATION_RESULTS,
    FAMILY_RESULTS,
    RESULTS_FILE,
    SCORES_FILE,
)
from search.studies import correlation_study, family_study, search_study
from search.studies.setup import SettingsFile
from search.trials.artifacts import surroundings
from search.trials.jobs import Outcome
from search.trials.targets import product_suffixes

Value = str
"""What is read off: a score or a cost, such as "test", "error" or "FLOPs left"; see each study."""


_TENTH = 0.1


class StudyOf(ABC):
    """One run of an experiment.

    trains: whether it learns from data, into a folder.  is_repeated: whether there is one for
    every seed; a family has seeds of its own.  word: in the folder's name.
    """

    word: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    is_repeated: ClassVar[bool] = True

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """ConfigError for settings that there are not, or that do not fit."""
        self.config: Any = from_mapping(self._config_class(), settings, "the experiment")

    @property
    def name(self) -> str:
        """Of the folder."""
        return str(self.config.study_name)

    @property
    def folder(self) -> Path:
        """That holds it."""
        folder: Path = self.config.directory
        return folder

    @property
    @abstractmethod
    def command(self) -> str:
        """What to type for the same; empty if there is no such command."""

    @abstractmethod
    def perform(self, console: Console) -> None:
        """Run it, or go on with it; nothing if it is finished.

        Raises SearchStateError if the folder holds something else.
        """

    @abstractmethod
    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        """What there is of `value`: a number, several of several seeds, or none.

        of: whose it is, such as a criterion or a kind.  at: of which network or layer.
        ConfigError for a value that the study does not have.
        """

    def surroundings(self) -> dict[str, Any]:
        """Where and with what it was computed."""
        for file in sorted((self.folder / ARCHITECTURES_FOLDER).glob("*/architecture.json")):
            record = read(file.parent).provenance
            return {key: record[key] for key in surroundings("cpu") if key in record}
        return surroundings("cpu")

    @classmethod
    @abstractmethod
    def _config_class(cls) -> type[Any]:
        """The class of its settings."""

    def _typed(self, command: str, *positional: str) -> str:
        settings = explicit_settings(self.config)
        return shlex.join(["espalier", command, *positional, *as_arguments(settings)])

    def _is_finished(self, settings: SettingsFile, results: str) -> bool:
        """Whether there are results of just these settings, wherever the folder was made."""
        settings.require_same()
        asked = json.loads(json.dumps(settings.settings))
        stored = {**(settings.stored or {}), "runs": asked["runs"]}
        return stored == asked and (self.folder / results).is_file()


@final
class SearchOf(StudyOf):
    """A search, read off a network of its first trial.

    at: base, or a target such as channels=50%; the trial's own network, pruned or not, if empty.
    Values: test, validation, error (of test, in percent), FLOPs, params; FLOPs left, params left
    and the same with removed (percent of the base network's); kept, the percentage of the channels
    of groups whose names fit one of the patterns `of`, joined by commas, and removed early, of
    those of the first half of the layers; below a tenth, the percentage of units with a score below
    0.1; what trials note of themselves, such as score_before_pruning.
    """

    @classmethod
    def _config_class(cls) -> type[Any]:
        return SearchConfig

    @property
    def command(self) -> str:
        return self._typed("search")

    def perform(self, console: Console) -> None:
        if not self._is_finished(search_study.settings_file(self.config), RESULTS_FILE):
            search_study.run(self.config, console=console)

    @functools.cached_property
    def results(self) -> Results:
        """Of the finished search."""
        return open_results(self.folder)

    def network(self, at: str = "") -> Outcome | None:
        """The network that a cell is read off."""
        key = self._key(at)
        return next((one for one in self.results.networks if one.key == key), None)

    def _key(self, at: str) -> str:
        if at == "base":
            return BASE_ARCHITECTURE
        return "sparse-0" if self.config.train_only else f"fine-tuned-0{self._suffix(at)}"

    def _suffix(self, target: str) -> str:
        """What the name of the network that was pruned to this target ends in."""
        if not target:
            return ""
        suffixes: dict[Bound, str] = dict(
            zip(self.config.target_bounds, product_suffixes(self.config), strict=False)
        )
        (bound,) = Budget.parse(target).bounds
        if bound not in suffixes:
            listed = ", ".join(map(str, suffixes)) or "none"
            raise ConfigError(f"{self.name} has no target {target!r}, its targets are: {listed}")
        return suffixes[bound]

    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        network = self.network(at)
        if network is None:
            return []
        if value == "kept":
            return self._kept(network, lambda name, _: fits(name, of))
        if value == "removed early":
            half = len(self.results.base_widths) // 2
            return [100 - kept for kept in self._kept(network, lambda _, place: place < half)]
        if value == "below a tenth":
            scores = [one for layer in self.scores(network).values() for one in layer]
            return [100 * statistics.fmean(one < _TENTH for one in scores)]
        return _of_network(value, network, self.results)

    def scores(self, network: Outcome) -> dict[str, list[float]]:
        """What its method thought of every unit before it was pruned, layer by layer."""
        file = self.folder / network.path / SCORES_FILE
        scores: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8"))["scores"]
        return scores

    def widths(self, network: Outcome) -> dict[str, int]:
        """What is left of each group that could be pruned."""
        profile = read(self.folder / network.path).profile
        return widths_left(profile, self.results.base_widths)

    def _kept(self, network: Outcome, counts: Callable[[str, int], bool]) -> list[float]:
        """The percentage of channels that is left of the groups, by name and place, that count.

        Nothing where the network has no such group.
        """
        base, left = self.results.base_widths, self.widths(network)
        names = [name for place, name in enumerate(base) if counts(name, place)]
        if not names:
            return []
        return [100 * sum(left[name] for name in names) / sum(base[name] for name in names)]


def fits(name: str, patterns: str) -> bool:
    """Whether a name fits one of these patterns, joined by commas."""
    return any(fnmatch.fnmatch(name, one) for one in patterns.split(","))


def _of_network(value: Value, network: Outcome, results: Results) -> list[float]:
    score, base = results.score, results.base
    quantity, _, part = value.partition(" ")
    counts = {"FLOPs": (network.flops, base.flops), "params": (network.params, base.params)}
    if quantity in counts:
        own, whole = counts[quantity]
        return [_share(part, own, whole)]
    if value == "error":
        return [score.plotted(1 - network.test_score)]
    if value in ("test", "validation"):
        shown = network.test_score if value == "test" else network.validation_score
        return [score.plotted(shown)]
    return [score.plotted(network.details[value])] if value in network.details else []


def _share(part: str, own: float, whole: float) -> float:
    """As `part` has it: nothing, for the number itself, left, or removed, in percent."""
    match part:
        case "":
            return own
        case "(K)":
            return own / 1e3
        case "(M)":
            return own / 1e6
        case "left":
            return 100 * own / whole
        case "removed":
            return 100 * (1 - own / whole)
    raise ConfigError(f"a count is shown itself, in (K), (M), left or removed, got {part!r}")


@final
class FamilyOf(StudyOf):
    """A family study, read off the networks of the kind `of` at the place `at`, every seed.

    A place is a budget, which networks of a search may have been pruned to as well. Values: test,
    error, params, FLOPs, as of a search.
    """

    word = "family"
    is_repeated = False

    @classmethod
    def _config_class(cls) -> type[Any]:
        return FamilyConfig

    @property
    def command(self) -> str:
        settings = explicit_settings(self.config)
        source = settings.pop("source")
        return shlex.join(["espalier", "family", source, "--train", *as_arguments(settings)])

    def perform(self, console: Console) -> None:
        if not self._is_finished(family_study.settings_file(self.config), FAMILY_RESULTS):
            family_study.resume(self.config, console=console)

    @functools.cached_property
    def results(self) -> FamilyStudy:
        """Of the finished study."""
        return FamilyStudy.read(self.folder / FAMILY_RESULTS)

    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        study = self.results
        ending = f"-{at.replace('=', '-')}"
        own = [
            run.outcome
            for run in study.runs
            if run.kind == of and (at in ("", run.place) or run.place.endswith(ending))
        ]
        match value:
            case "error":
                return [study.score.plotted(1 - one.test_score) for one in own]
            case "test":
                return [study.score.plotted(one.test_score) for one in own]
            case "params" | "FLOPs":
                return [float(one.params if value == "params" else one.flops) for one in own]
        raise ConfigError(f"of a family study test, error, params and FLOPs are read, not {value}")


@final
class CorrelationOf(StudyOf):
    """A correlation study, read off the criterion `of`.

    at: overall; mean, over layers; or patterns of groups, joined by commas, over which the mean is
    taken. Values: pearson, spearman, kendall.
    """

    word = "correlation"

    @classmethod
    def _config_class(cls) -> type[Any]:
        return CorrelationConfig

    @property
    def command(self) -> str:
        return self._typed("correlate")

    def perform(self, console: Console) -> None:
        if not self._is_finished(correlation_study.settings_file(self.config), CORRELATION_RESULTS):
            correlation_study.run(self.config, console=console)

    @functools.cached_property
    def results(self) -> CorrelationResults:
        """Of the finished study."""
        return read_correlation(self.folder / CORRELATION_RESULTS)

    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        if value not in COEFFICIENTS:
            raise ConfigError(
                f"of a correlation study {', '.join(COEFFICIENTS)} are read, not {value}"
            )
        row = next((one for one in self.results.agreements if one.criterion == of), None)
        if row is None:
            return []
        if at in ("", "overall"):
            found: list[float | None] = [getattr(row.all_layers, value)]
        elif at == "mean":
            found = [getattr(row.per_layer, value)]
        else:
            found = [
                getattr(layer, value)
                for name, layer in row.layers.items()
                if layer.is_defined and fits(name, at)
            ]
        known = [one for one in found if one is not None]
        return [statistics.fmean(known)] if known else []


@final
class RemovalOf(StudyOf):
    """Units removed one after the other from a network that stays as it is; see removal.py.

    Read off the criterion `of`. Values: removed, units that are gone when the loss first reaches
    `at`, or as many as went where it never does; loss, when `at` units are gone.
    """

    word = "removal"

    @classmethod
    def _config_class(cls) -> type[Any]:
        return RemovalConfig

    @property
    def command(self) -> str:
        return ""

    def perform(self, console: Console) -> None:
        removal_study(self.config, console)

    @functools.cached_property
    def results(self) -> Trajectories:
        """Of the finished study."""
        return Trajectories.read(self.config)

    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        if value not in ("removed", "loss"):
            raise ConfigError(f"of removals removed and loss are read, not {value}")
        points = self.results.points.get(of, [])
        if value == "removed":
            reached = [n for n, loss in points if loss >= float(at)]
            return [float(n) for n in (reached or [n for n, _ in points[-1:]])[:1]]
        return [loss for n, loss in points if n >= float(at)][:1]


@final
class CountOf(StudyOf):
    """Closed forms of a network's cost; see counting.py for what `of` and `at` choose.

    Values: FLOPs and params as of a search; parameter, of a member of a family.
    """

    trains = False
    is_repeated = False

    @classmethod
    def _config_class(cls) -> type[Any]:
        return CountConfig

    @property
    def name(self) -> str:
        return ""

    @property
    def command(self) -> str:
        return ""

    def perform(self, console: Console) -> None:
        """Nothing has to run."""

    def values(self, value: Value, *, of: str, at: str) -> list[float]:
        found = counted(self.config, of, at)
        if found is None:
            return []
        cost, base, parameter = found
        if value == "parameter":
            return [parameter]
        quantity, _, part = value.partition(" ")
        name = {"FLOPs": "flops", "params": "params"}[quantity]
        return [_share(part, cost.of(name), base.of(name))]

    def surroundings(self) -> dict[str, Any]:
        return surroundings("cpu")


STUDIES: Mapping[str, type[StudyOf]] = {
    "search": SearchOf,
    "family": FamilyOf,
    "correlation": CorrelationOf,
    "removal": RemovalOf,
    "count": CountOf,
}
"""By the name that a TOML file has for them."""
