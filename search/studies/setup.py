"""What a command that trains needs before it can begin: a device, data, a record, a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.text import Text

import mlflow_server
from mlflow_server.errors import TrackingError
from mlflow_server.runs import RunRecorder
from pruning.errors import ConfigError, DataError, SearchStateError
from search.config.data_config import DataConfig
from search.config.resources_config import ResourcesConfig
from search.data import datasets
from search.data.data import Data, Part
from search.data.own import own_data
from search.storage.atomic_files import write_durably
from search.storage.layout import SPOOL_FILE
from search.system.child_process import ProcessEndedError, apart
from search.system.machine import usable_memory
from search.tasks.task import Task

T = TypeVar("T")

_CLOSING_SECONDS, _INTERRUPTED_SECONDS = 60.0, 15.0
"""So long a study waits at most for MLflow to take what is left, at its end and by Ctrl-C."""


def chosen_device(name: str, resources: ResourcesConfig | None = None) -> str:
    """cpu or cuda, for auto, cpu or cuda; ConfigError for a GPU that is not there.

    Whether a cluster elsewhere has a GPU is not known here: there auto is cuda where trials are
    to have GPUs.
    """
    wanted = resources or ResourcesConfig()
    if wanted.ray_address:
        return name if name != "auto" else "cuda" if wanted.gpus_per_trial else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here: use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def read_data(
    config: DataConfig, task: Task, seed: int, console: Console, *, channels: int | None = None
) -> Data:
    """The data, split by `seed`, from which `task` can learn; what there is to know is printed.

    channels: of colour that images are to have; None for as many as they have.
    Raises DataError for data that cannot be read, or whose targets the task does not know.
    """
    with console.status(Text(f"reading {config.source}")) as status:

        def show(done: int, total: int) -> None:
            status.update(Text(f"reading {config.source}: {done:,} of {total:,} samples"))

        if config.own_module:
            data: Data = own_data.load(
                config, has_classes=task.has_classes, seed=seed, progress=show
            )
        else:
            data = datasets.load(config, channels=channels, seed=seed, progress=show)
    _require_memory(data)
    for note in data.notes:
        console.print(f"note          {note}", highlight=False, markup=False, soft_wrap=True)
    _check_targets(data, task)
    return data


def of_network(model: str, task: Callable[..., T], *arguments: Any) -> T:
    """What `task` finds out of a network, which may end the process that runs it.

    Raises what the task raises, and ModelError or LostProcessError if the process ends.
    """
    try:
        return apart(task, *arguments)
    except ProcessEndedError as ended:
        raise ended.told(f"{model} ends the process when it runs") from ended


def _require_memory(data: Data) -> None:
    """DataError for more than can be here and, for workers, in the memory that they share.

    Files of images that would take much are left on disk before it comes to that.
    """
    needed, usable = 2 * data.num_bytes, usable_memory()
    if needed > usable:
        raise DataError(
            f"{data.name} takes {data.num_bytes / 1e9:.1f} GB of memory, and as much again that "
            f"workers share, but {usable / 1e9:.1f} GB may be used here: take fewer samples "
            "(--limit-train) or smaller images (--image-size), or give files (imagefolder:PATH), "
            "which are read from disk where they do not fit"
        )


def _check_targets(data: Data, task: Task) -> None:
    few, device = data.few(1), torch.device("cpu")
    parts: tuple[Part, ...] = ("train", "validation", "test")
    for part in parts:
        for _, targets in few.loader(part, device=device).in_order():
            try:
                task.check_targets(targets, data.sample)
            except DataError as error:
                raise DataError(
                    f"sample 0 of the {part} part of {data.name} does not fit the task: {error}"
                ) from error


def run_recorder(runs: str, name: str, mlflow_url: str) -> RunRecorder:
    """A recorder of the experiment `name` that keeps nobody waiting and loses nothing.

    What MLflow could not be given waits in the folder of the search for the next recorder.
    """
    uri = mlflow_url or mlflow_server.store_uri(Path(runs))
    try:
        recorder = mlflow_server.connect(uri, name)
    except TrackingError as error:
        if not (mlflow_url and error.is_transient):
            raise
        hint = f"start it, or name another (--mlflow-url '' records in {runs})"
        raise TrackingError(f"{error}; {hint}", is_transient=True) from error
    return mlflow_server.BackgroundRecorder(recorder, spool=Path(runs) / name / SPOOL_FILE)


def close_recorder(recorder: RunRecorder, console: Console, *, is_interrupted: bool) -> None:
    """End the record, and say what of it could not be written.

    is_interrupted: somebody waits for the process to end, and what waits for MLflow is delivered
    when the study is continued.
    """
    seconds = _INTERRUPTED_SECONDS if is_interrupted else _CLOSING_SECONDS
    undelivered = recorder.close(seconds, outages_pass=not is_interrupted)
    for problem in recorder.problems:
        console.print(f"MLflow: {problem}", style="yellow", highlight=False, markup=False)
    if undelivered:
        console.print(f"MLflow: {undelivered} records were not delivered")


@dataclass(frozen=True)
class SettingsFile:
    """The file that says what the folder it lies in was asked for: one search or study.

    kind: what that is called, such as "search".  settings: JSON-able, maybe with tables.
    defaults: of the same settings; one that an older version did not store had its default.
    matters: whether a setting, by a name such as training.epochs, makes one differ from another.
    """

    path: Path
    kind: str
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    matters: Callable[[str], bool]

    def require_same(self) -> None:
        """SearchStateError if the folder holds something else, or has been asked for another."""
        folder = self.path.parent
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        if (stored := self.stored) is None:
            raise SearchStateError(
                f"{folder} exists but holds no {self.kind}: choose another --name or --runs"
            )
        before = _as_stored(self.defaults) | _dotted(stored)
        differing = [
            f"{name} (it has {_words(before.get(name))}, now {_words(value)})"
            for name, value in _as_stored(self.settings).items()
            if self.matters(name) and before.get(name) != value
        ]
        if differing:
            raise SearchStateError(
                f"{folder} holds another {self.kind}, which differs in {', '.join(differing)}: "
                "choose another --name, or repeat its own settings to continue it"
            )

    @property
    def stored(self) -> Mapping[str, Any] | None:
        """What the file says; None where there is none, or none that can be read."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, Mapping) else None

    def write(self) -> None:
        """Make the folder, if it is not there, and write the file whole."""
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchStateError(f"cannot make the folder {folder}: {error}") from error
        write_durably(self.path, json.dumps(self.settings, indent=2).encode())


def _as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    return _dotted(json.loads(json.dumps(settings)))


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings and those of their tables, the latter under names such as training.epochs."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        is_table = isinstance(value, Mapping)
        flat |= _dotted(value, f"{prefix}{name}.") if is_table else {prefix + name: value}
    return flat
