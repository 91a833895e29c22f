"""What a command that trains needs before it can begin: a device, images, a record, a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

import mlflow_server
from mlflow_server.runs import RunRecorder
from pruning.errors import ConfigError, SearchStateError
from search import datasets, models
from search.config import DataConfig
from search.datasets import ImageData


def chosen_device(name: str) -> str:
    """cpu or cuda, for auto, cpu or cuda; ConfigError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here: use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def read_images(data: DataConfig, model: str, seed: int, console: Console) -> ImageData:
    """The data set with as many colour channels as the network demands."""
    with console.status(Text(f"reading {data.source}")):
        return datasets.load(data, channels=models.required_channels(model), seed=seed)


def run_recorder(runs: str, name: str, mlflow_url: str) -> RunRecorder:
    """A recorder of the experiment `name` that keeps nobody waiting."""
    uri = mlflow_url or mlflow_server.store_uri(Path(runs))
    return mlflow_server.BackgroundRecorder(mlflow_server.connect(uri, name))


def close_recorder(recorder: RunRecorder, console: Console) -> None:
    """End the record, and say what of it could not be written."""
    undelivered = recorder.close(timeout_seconds=60)
    for problem in recorder.problems:
        console.print(f"MLflow: {problem}", style="yellow", highlight=False, markup=False)
    if undelivered:
        console.print(f"MLflow: {undelivered} records were not delivered")


def write_whole(file: Path, text: str) -> None:
    """Write under another name first, so that a reader never sees half a file."""
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(text)
    os.replace(temporary, file)


def require_same_study(
    settings_file: Path,
    given: Mapping[str, Any],
    identity: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    kind: str,
) -> None:
    """SearchStateError if the folder of `settings_file` holds anything but this very study.

    given: its settings.  identity: what of settings makes one study differ from another.
    kind: what such a study is called.
    """
    directory = settings_file.parent
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        stored = json.loads(settings_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, Mapping):
        raise SearchStateError(
            f"{directory} exists but holds no {kind}: choose another --name or --runs"
        )
    before = identity(stored)
    differing = [name for name, value in identity(given).items() if before.get(name) != value]
    if differing:
        raise SearchStateError(
            f"{directory} holds another study, which differs in {', '.join(differing)}: choose "
            "another --name"
        )
