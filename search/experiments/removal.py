"""Units that are removed step by step from a network that is not trained on: its loss meanwhile.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §4.1, figures 2 to 4.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from copycat.architecture import load, read
from pruning.criteria import Criterion
from pruning.criteria.oracle import combinatorial_oracle, greedy_order
from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.selection import KeepPlan, removal_order
from pruning.surgery import remove_channels
from pruning.tracing import whole_trace
from search.config.correlation_config import criterion_of
from search.config.data_config import DataConfig
from search.config.methods import method
from search.config.settings import Device, listed, option, require, settings
from search.data.data import Batch
from search.storage.atomic_files import write_durably
from search.storage.folder_lock import FolderLock
from search.studies.family_ladder import architecture_folder
from search.studies.setup import SettingsFile, chosen_device, read_data
from search.tasks.classification import Classification

Points = list[tuple[int, float]]
"""How many units are gone, and the mean loss then."""

GREEDY, COMBINATORIAL = "greedy", "combinatorial"
"""The oracles of figure 2."""

_SETTINGS_FILE, _RESULTS_FILE = "removal-settings.json", "removal.json"


@settings
class RemovalConfig:
    """Which units go in which order, from which trained network.

    source: an architecture, as of `espalier family`.
    criterion: methods; greedy and combinatorial, the oracles that look for the unit or the set of
        units without which the loss is least.
    groups: patterns of the groups that lose units; by default all that can.
    """

    source: str
    data: DataConfig = field(default_factory=DataConfig)
    criterion: tuple[str, ...] = option(("taylor",), "joined by commas")
    groups: tuple[str, ...] = option(("*",), "patterns")
    most: float = option(1.0, "share of the units that goes at the most", gt=0, le=1)
    units: int = option(1, "units that go at each step", ge=1)
    batch_size: int = option(64, "images in a minibatch", ge=1)
    scoring_batches: int = option(10, "minibatches of training images", ge=1)
    seed: int = option(0, "of data splits and batches", ge=0)
    device: Device = option("auto", "auto, cpu or cuda")
    name: str = option("removal", "of the study")
    runs: str = option("espalier-runs", "folder of all studies")

    def __post_init__(self) -> None:
        for name in self.criteria:
            if name not in (GREEDY, COMBINATORIAL):
                is_known = method(name).criterion is not None
                require(is_known, "criterion", "one that judges without gates", name)

    @property
    def criteria(self) -> tuple[str, ...]:
        """Each once."""
        return listed(self.criterion)

    @property
    def study_name(self) -> str:
        """As of other studies."""
        return self.name

    @property
    def directory(self) -> Path:
        """The folder of the study."""
        return Path(self.runs) / self.name


@dataclass(frozen=True)
class Trajectories:
    """Per criterion the loss by the number of units that are gone."""

    points: Mapping[str, Points]

    @classmethod
    def read(cls, config: RemovalConfig) -> Trajectories:
        """What there is in the folder; nothing where nothing was stored."""
        file = config.directory / _RESULTS_FILE
        if not file.is_file():
            return cls({})
        stored = json.loads(file.read_text(encoding="utf-8"))
        return cls({name: [(int(n), float(e)) for n, e in rows] for name, rows in stored.items()})


def removal_study(config: RemovalConfig, console: Console) -> None:
    """Every trajectory that is still missing, each stored as it is done."""
    file = _settings_file(config)
    file.require_same()
    points = dict(Trajectories.read(config).points)
    missing = [name for name in config.criteria if name not in points]
    if not missing:
        return
    file.write()
    with FolderLock(config.directory, file.kind) as lock:
        lock.acquire()
        network = _Network.opened(config, console)
        for name in missing:
            points[name] = network.trajectory(name)
            console.print(f"{config.name}: {name} done", highlight=False)
            write_durably(config.directory / _RESULTS_FILE, json.dumps(points).encode())


@dataclass(frozen=True)
class _Network:
    """A trained network, and what it is judged by."""

    config: RemovalConfig
    model: nn.Module
    example_input: Tensor
    batches: Sequence[Batch]

    @classmethod
    def opened(cls, config: RemovalConfig, console: Console) -> _Network:
        folder = architecture_folder(config.source, config.runs)
        if folder is None:
            raise ConfigError(f"{config.source} is no architecture in {config.runs}")
        device = torch.device(chosen_device(config.device))
        data = read_data(config.data, Classification(), config.seed, console)
        batches = data.scoring_batches(
            config.scoring_batches, batch_size=config.batch_size, seed=config.seed, device=device
        )
        example_input = read(folder).example_input
        assert isinstance(example_input, Tensor)
        return cls(config, load(folder).to(device), example_input.to(device), list(batches))

    def trajectory(self, name: str) -> Points:
        """From the whole network on."""
        graph = whole_trace(self.model, self.example_input)
        most = int(
            self.config.most * sum(graph.group(one).num_units for one in self._groups(graph))
        )
        return [(0, self._loss(self.model)), *self._points(name, graph, most)]

    def _points(self, name: str, graph: ChannelGraph, most: int) -> Iterator[tuple[int, float]]:
        groups = self._groups(graph)
        if name == GREEDY:
            steps = greedy_order(self.model, graph, groups, self.batches, most)
            yield from ((number, step.loss) for number, step in enumerate(steps, 1))
        elif name == COMBINATORIAL:
            for number in range(1, most + 1):
                yield (
                    number,
                    combinatorial_oracle(self.model, graph, groups[0], self.batches, number)[1],
                )
        elif criterion_of(name).is_fixed:
            yield from self._in_order(self._order(self.model, graph, name), graph, most)
        else:
            yield from self._judged_anew(name, graph, most)

    def _in_order(
        self, order: Sequence[tuple[str, int]], graph: ChannelGraph, most: int
    ) -> Iterator[tuple[int, float]]:
        """Without more and more of one order."""
        for number in range(self.config.units, min(most, len(order)) + 1, self.config.units):
            plan = _plan_without(graph, order[:number])
            yield number, self._loss(remove_channels(self.model, graph, plan))

    def _judged_anew(
        self, name: str, graph: ChannelGraph, most: int
    ) -> Iterator[tuple[int, float]]:
        """Without what the criterion says of what is left, step by step."""
        model, removed = self.model, 0
        while removed + self.config.units <= most:
            order = self._order(model, graph, name)[: self.config.units]
            if len(order) < self.config.units:
                return
            plan = _plan_without(graph, order)
            model = remove_channels(model, graph, plan)
            graph = graph.narrowed(plan.units_kept(graph))
            removed += len(order)
            yield removed, self._loss(model)

    def _order(self, model: nn.Module, graph: ChannelGraph, name: str) -> list[tuple[str, int]]:
        criterion: Criterion = criterion_of(name)
        scores = criterion.score(model, graph, self.batches)
        groups = self._groups(graph)
        return removal_order({one: scores[one] for one in groups}, graph, min_channels=1)

    def _groups(self, graph: ChannelGraph) -> list[str]:
        patterns = self.config.groups
        own = [
            group.name
            for group in graph.prunable
            if any(fnmatch.fnmatch(group.name, pattern) for pattern in patterns)
        ]
        if not own:
            raise ConfigError(
                f"no group is called {', '.join(patterns)}: there are "
                f"{', '.join(group.name for group in graph.prunable)}"
            )
        return own

    def _loss(self, model: nn.Module) -> float:
        """The mean over the minibatches' samples."""
        model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for images, labels in self.batches:
                loss = nn.functional.cross_entropy(model(images), labels, reduction="sum")
                total, count = total + float(loss), count + len(labels)
        return total / count


def _plan_without(graph: ChannelGraph, units: Sequence[tuple[str, int]]) -> KeepPlan:
    """The plan that keeps all but these units of groups."""
    gone: dict[str, set[int]] = {}
    for name, unit in units:
        gone.setdefault(name, set()).add(unit)
    keep = {
        name: tuple(
            channel
            for channel, unit in enumerate(graph.group(name).unit_of_channel.tolist())
            if unit not in removed
        )
        for name, removed in gone.items()
    }
    return KeepPlan(keep)


_OF_THE_MACHINE = ("device", "runs", "data.root", "data.download", "data.workers", "criterion")
"""Settings that may differ when a study is continued; criteria may be added."""


def _settings_file(config: RemovalConfig) -> SettingsFile:
    return SettingsFile(
        config.directory / _SETTINGS_FILE,
        "study of removal",
        dataclasses.asdict(config),
        dataclasses.asdict(RemovalConfig(config.source)),
        matters=lambda name: name not in _OF_THE_MACHINE,
    )


def at_each_count(runs: Sequence[Points]) -> dict[int, list[float]]:
    """The losses of several runs by the number of units that are gone, where all have one."""
    tables: list[dict[int, float]] = [dict(points) for points in runs]
    shared: Any = set(tables[0]).intersection(*tables[1:]) if tables else ()
    return {count: [table[count] for table in tables] for count in sorted(shared)}
