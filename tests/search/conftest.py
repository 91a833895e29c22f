"""Small data, searches without Ray, and one real search, made once because it takes seconds."""

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from mlflow_server import MemoryRecorder
from pruning.errors import SearchFailedError
from search import models
from search.config.data_config import DataConfig
from search.data import datasets
from search.data.datasets import ImageData
from search.results.report import open_results
from search.training.trainer import EpochReport, Trainer
from search.trials.job_context import JobContext
from search.trials.preflight import Preflight, check


def _share(name: str) -> ModuleType:
    """A file beside this one, made importable under its own name: no test folder is on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


samples, *_ = map(
    _share,
    ("samples", "serving", "nets_of_users", "own_data", "data_of_users", "fused_problems"),
)

NETS = """
import itertools
import os
from pathlib import Path

import torch

from search.models import digits_vgg

BUILT = itertools.count(1)


def troubled(num_classes, in_channels):
    "Raises in trial 1 of seed 7, diverges in 2, ends the process of 3 once; no two of 4 are alike."
    number = (torch.initial_seed() - 7 * 2**21) / 2
    if number == 1:
        raise RuntimeError("out of\\nluck")
    if number == 3 and not Path("died").exists():
        Path("died").touch()
        os._exit(1)
    model = digits_vgg(num_classes, in_channels)
    if number == 4:
        offset = next(BUILT)
        model.register_forward_hook(lambda module, inputs, outputs: outputs + offset)
    if number == 2:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1e38)
    return model
"""
"""A network of the user's own, in the folder where Ray is started."""


@pytest.fixture(autouse=True)
def _wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, object]], None]:
    """Makes the content of a file of tests what its module is, for what is built by name."""

    def make(name: str, content: dict[str, object]) -> None:
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """The images of the small searches."""
    return datasets.load(DataConfig(limit_train=samples.NUM_IMAGES), seed=0)


@pytest.fixture(scope="session")
def preflight(digits: ImageData) -> Preflight:
    """What the trials of a small search share."""
    builder = models.resolve("digits-vgg", num_classes=10, in_channels=1)
    config = samples.small_config(Path())
    return check(config, builder, digits.sample)


@pytest.fixture
def context(tmp_path: Path, preflight: Preflight) -> JobContext:
    """A small search in a folder of its own."""
    return JobContext(samples.small_config(tmp_path), preflight, "cpu")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryRecorder:
    """The record of every search of the test, in place of MLflow."""
    recorder = MemoryRecorder("small")
    monkeypatch.setattr("search.studies.session.run_recorder", lambda *_: recorder)
    return recorder


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, memory: MemoryRecorder) -> object:
    """What performs the jobs of a search, in this process; see samples.Workers."""
    stand_in = samples.Workers()
    stand_in.take_over(monkeypatch)
    return stand_in


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the searches with Ray are started; the user's own network lies there."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "nets.py").write_text(NETS)
    return folder


@contextmanager
def _started_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "120")
        yield


@pytest.fixture(scope="session")
def at_desk(desk: Path) -> Callable[[], AbstractContextManager[None]]:
    """A block in which searches are started at the desk."""
    return partial(_started_in, desk)


@pytest.fixture(scope="session")
def finished_search(
    made_once: Callable[[str, Callable[[Path], object]], Path], desk: Path, empty_store: Path
) -> object:
    """A small search from the command line: real Ray, Optuna and MLflow. Only to be read."""
    flags = ("--budget=flops=10%", "--budget=params=40k", "--trials=3", "--ladder=1")
    flags += ("--ladder=0.5", f"--limit-train={samples.NUM_IMAGES}", "--batch-size=16")
    flags += ("--epochs=4", "--fine-tune-epochs=3", "--scratch-epochs=3", "--concurrency=2")
    flags += ("--device=cpu", "--name=tiny", "--runs=runs")

    def make(folder: Path) -> None:
        shutil.copytree(empty_store, folder / "runs")
        with _started_in(folder):
            completed = samples.espalier("search", *flags)
        assert completed.status == 0, completed.err
        (folder / "completed.json").write_text(json.dumps(dataclasses.asdict(completed)))

    made = made_once("finished-search", make)
    shutil.copytree(made / "runs", desk / "runs")
    completed = samples.Completed(**json.loads((made / "completed.json").read_text()))
    folder = desk / "runs" / "tiny"
    return samples.FinishedSearch(flags, folder, completed, open_results(folder))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the trainers that went through an epoch, in order; of dry runs none."""
    monkeypatch.setattr("search.studies.search_study.dry_run_of_search", lambda *_: None)
    seeds: list[int] = []
    run_epoch = Trainer.run_epoch

    def counted(self: Trainer) -> EpochReport:
        seeds.append(self._seed)
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", counted)
    return seeds


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The settings of the studies that were asked for; none of them is run."""
    configs: list[object] = []

    def run(config: object, *_: object, **__: object) -> None:
        configs.append(config)
        raise SearchFailedError("nothing is run here")

    for study in ("search_study", "family_study", "correlation_study"):
        monkeypatch.setattr(f"search.studies.{study}.run", run)
    return configs
