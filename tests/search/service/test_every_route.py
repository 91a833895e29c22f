"""What the papers' experiments ask for, said in Python, by flags, in TOML and over HTTP: alike."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from other_studies import store
from samples import espalier

import search as package
from pruning.errors import EspalierError
from search.config.correlation_config import CorrelationConfig
from search.config.data_config import DataConfig
from search.config.explicit_settings import as_arguments, explicit_settings
from search.config.family_config import FamilyConfig
from search.config.gates_config import GatesConfig
from search.config.iterative_config import IterativeConfig
from search.config.methods import METHODS
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping, tables
from search.config.study_settings import kind_of
from search.config.training_config import TrainingConfig
from search.service.access.settings_policy import SERVER_SETTINGS
from search.storage.layout import StudyKind
from search.studies import correlation_study, family_study
from search.trials.preflight import Preflight

GATES: Mapping[str, Any] = {"criterion": ("scaling-factors",)}
STEP_BY_STEP: Mapping[str, Any] = {"criterion": ("fisher",), "schedule": ("iterative",)}
LENET: Mapping[str, Any] = {"model": "lenet3", "data": DataConfig(image_size=32)}


def stepwise(**settings: Any) -> SearchConfig:
    return SearchConfig(**STEP_BY_STEP, iterative=IterativeConfig(**settings))


def gated(granularity: str = "filter", **settings: Any) -> SearchConfig:
    return SearchConfig(**GATES, granularity=(granularity,), gates=GatesConfig(**settings))


ASKED = {
    "a share of channels": SearchConfig(budget=("channels=50%",)),
    "so many channels": SearchConfig(budget=("channels=100",)),
    "channels and FLOPs": SearchConfig(budget=("channels=50%", "flops=40%")),
    "UCS": SearchConfig(budget=("channels=50%",), scope="uniform", criterion=("magnitude-l1",)),
    "UCS beside others": SearchConfig(criterion=("rni", "slimming", "ucs")),
    "a floor above a narrow layer": SearchConfig(budget=("flops=80%",), min_channels=40),
    "fixed": SearchConfig(set=("rni.strength=1e-3", "rni.shift=3")),
    "a grid": SearchConfig(set=("rni.strength=1e-3,1e-2", "rni.shift=0,3", "target_flops=5%,8%")),
    "nothing but training": SearchConfig(train_only=True),
    "targets": SearchConfig(budget=("flops=100%",), targets=("channels=10%:90%:10%",)),
    "both schedules": SearchConfig(criterion=("taylor",), schedule=("one-shot", "iterative")),
    "epochs of removal": stepwise(epochs=2),
    "so many at a time": stepwise(units=100),
    "every so many minibatches": stepwise(minibatches=1),
    "surgery": stepwise(surgery_every=3),
    "moving average": stepwise(score_momentum=0.5),
    "a rate of its own": stepwise(learning_rate=8e-4),
    "penalty on FLOPs": stepwise(flops_penalty=1e-9),
    "momentum reset": stepwise(reset_momentum=True),
    "scores of points": stepwise(score_every=2),
    "a grid of paces": SearchConfig(**STEP_BY_STEP, set=("iterative.units=50,100",)),
    "gates on outputs": gated(gates_at="convolution"),
    "factors that are clipped": gated(gate_form="clipped"),
    "the mean of gates": gated(gate_penalty="mean"),
    "one threshold": gated(gate_thresholds=("0.5",)),
    "thresholds": gated("filter+full-layer", gate_thresholds=("filter=0.4", "full-layer=0.5")),
    "patterns of gates": gated("filter+layer", gate=("layer=*.conv3", "layer=*.conv5")),
    "settling": gated("filter+full-layer", settle_epochs=10),
    "all frozen but": SearchConfig(gates=GatesConfig(freeze_but=("batchnorm", "last"))),
    "only": SearchConfig(model="wrn-10-1", budget=("params=90%",), only=("*.conv1",)),
    "LeNet-3": SearchConfig(**LENET, criterion=("taylor",)),
    "pre-activation ResNet-18": SearchConfig(model="preact-resnet18"),
    "VGG-16 with fully connected layers": SearchConfig(
        model="vgg16-fc",
        data=DataConfig(image_size=32),
        training=TrainingConfig(weight_decay=0.1),
    ),
    "MobileNetV2": SearchConfig(model="mobilenetv2", budget=("flops=50%",), prune_residual=False),
    **{f"the method {name}": SearchConfig(criterion=(name,)) for name in METHODS if name != "rni"},
}
"""By what asks for it; between them they change every setting of gates and of iterative pruning."""


NETWORK = "real/fine-tuned-0"
"""What families are made from, on the command line and by the service."""


def family(**settings: Any) -> FamilyConfig:
    return FamilyConfig(NETWORK, **{"budgets": ("flops=20%",), **settings})


OTHERS: Mapping[str, FamilyConfig | CorrelationConfig] = {
    "a family": family(),
    "a ladder": family(budgets=("params=5k:9k:2k", "flops=10%"), seeds=2),
    "kinds": family(kinds=("copycat", "tempered:0.5", "from-scratch"), divisor=4),
    "a family of some layers": family(
        budgets=("flops=60%",), ignore=("features.conv1",), max_removed=("features.*=50%",)
    ),
    "a family of equal compute": family(
        training=TrainingConfig(scratch_epochs=3, equal_compute=True, compute_limit=4.0)
    ),
    "a family on few images": family(data=DataConfig(limit_train=100), concurrency=2, seed=3),
    "a correlation study": CorrelationConfig(),
    "criteria": CorrelationConfig(criterion=("taylor", "magnitude-l1"), scoring_batches=2),
    "each convolution's part": CorrelationConfig(
        model="digits-resnet",
        criterion=("taylor",),
        prune_residual=True,
        gates_per="convolution",
        training=TrainingConfig(epochs=3),
    ),
    "another network and seed": CorrelationConfig(model="lenet3", data=LENET["data"], seed=7),
}
"""Studies of other kinds, alike."""


@pytest.fixture(scope="module")
def networked(service: Any, preflight: Preflight) -> Any:
    """The service with a network that families can be made from."""
    service.finish("real", ["fine-tuned-0"])
    store(service.runs, preflight, name="real", data="digits")
    return service


@pytest.fixture
def beside(networked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the command line, which has the same network."""
    folder = tmp_path / "here"
    shutil.copytree(networked.runs / "real", folder / FamilyConfig.runs / "real")
    monkeypatch.chdir(folder)
    return folder


def command(kind: StudyKind) -> list[str]:
    """The words of the command that runs studies of this kind."""
    commands = {"search": [], "family": [NETWORK, "--train"], "correlation": []}
    return [{"correlation": "correlate"}.get(kind, kind), *commands[kind]]


def given(config: Any) -> dict[str, Any]:
    """What is typed or written for these settings, beside the words of the command."""
    return {name: value for name, value in explicit_settings(config).items() if name != "source"}


def by_flags(config: Any, _: Path) -> list[str]:
    return as_arguments(given(config))


def by_file(config: Any, folder: Path) -> list[str]:
    lines = []
    content, names = given(config), tables(type(config))
    for name, table in {"": content, **{name: content.get(name, {}) for name in names}}.items():
        own = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    file = folder / "search.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    return [f"--config={file}"]


TABLES = tables(SearchConfig)


def test_every_table_has_its_class_in_python():
    assert all(getattr(package, table.__name__) is table for table in TABLES.values())
    assert {table.__name__ for table in TABLES.values()} <= {*package.__all__}


def test_what_the_papers_ask_for_is_all_here():
    for table in ("gates", "iterative"):
        for field in dataclasses.fields(TABLES[table]):
            values = {getattr(getattr(config, table), field.name) for config in ASKED.values()}
            assert len(values) > 1, field.name
    for name in ("budget", "scope", "min_channels", "set", "train_only", "targets", "schedule"):
        assert len({getattr(config, name) for config in ASKED.values()}) > 1, name


@pytest.mark.parametrize("case", ASKED)
def test_flags_and_files_mean_what_python_means(
    asked: list[SearchConfig], tmp_path: Path, case: str
):
    for route in (by_flags, by_file):
        espalier("search", *route(ASKED[case], tmp_path))
    assert asked == [ASKED[case], ASKED[case]]


@pytest.mark.parametrize("case", OTHERS)
def test_flags_and_files_mean_what_python_means_for_other_studies(
    asked: list[Any], beside: Path, tmp_path: Path, case: str
):
    words = command(kind_of(OTHERS[case]))
    for route in (by_flags, by_file):
        done = espalier(*words, *route(OTHERS[case], tmp_path))
        assert "nothing is run here" in done.err
    assert asked == [OTHERS[case], OTHERS[case]]


@pytest.mark.parametrize("case", [*ASKED, *OTHERS])
def test_the_service_begins_what_python_means(networked, case: str):
    service, config = networked, {**ASKED, **OTHERS}[case]
    body, kind = json.dumps(explicit_settings(config)).encode(), kind_of(config)
    answer = service.ask("POST", f"/v1/searches?kind={kind}", body)
    assert answer.status == 201, answer.body
    row = service.components.searches.get(answer.json["id"])
    assert row.kind == answer.json["kind"] == kind
    began = from_mapping(type(config), row.settings)
    expected = dataclasses.asdict(config.resolved())
    if isinstance(config, FamilyConfig):
        expected["source"] = config.source.replace("/", ":")  # so it is never a path
    differing = {
        name
        for name, value, meant in _leaves(dataclasses.asdict(began), expected)
        if value != meant and name not in SERVER_SETTINGS | {"name"}
    }
    assert not differing
    service.ask("DELETE", f"/v1/searches/{row.id}")


def _leaves(content: Mapping[str, Any], beside: Mapping[str, Any], prefix: str = ""):
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, beside[name], f"{name}.")
        else:
            yield prefix + name, value, beside[name]


REFUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a grid past the trials": (
        {"set": ["rni.strength=1,2,3", "rni.shift=0,1,2"]},
        "set makes a grid of 9 combinations, more than trials (8): raise trials, or leave values",
    ),
    "a schedule for gates alone": (
        {"criterion": ["scaling-factors"], "schedule": ["iterative"]},
        "scaling-factors opens and closes gates while it trains, with no score that channels",
    ),
    "a schedule for structures alone": (
        {"criterion": ["taylor"], "granularity": ["branch"], "schedule": ["iterative"]},
        "the schedule iterative takes channels step by step, and branch prunes none",
    ),
    "an unknown setting": (
        {"set": ["rni.strenght=1"]},
        "set names an unknown setting 'rni.strenght': did you mean rni.strength",
    ),
    "an unknown setting of a schedule": (
        {"criterion": ["taylor"], "schedule": ["iterative"], "set": ["iterative.unit=1"]},
        "set names an unknown setting 'iterative.unit': did you mean iterative.units",
    ),
    "targets that the floor forbids": (
        {"budget": ["flops=100%"], "targets": ["channels=1%:90%:10%"]},
        "channels of at most",
    ),
    "targets in FLOPs that the floor forbids": (
        {"budget": ["flops=100%"], "targets": ["flops=50%", "flops=0.01%"]},
        "flops of at most",
    ),
}
REFUSED_OTHERS: Mapping[str, tuple[StudyKind, Mapping[str, Any], str]] = {
    "a kind of family that there is not": (
        *("family", {"kinds": ["copycats"]}, "kinds must be some of copycat, "),
    ),
    "a ladder without budgets": ("family", {}, "there is nothing to train: give --budgets"),
    "a ladder that falls": ("family", {"budgets": ["params=9k:3k:1k"]}, "falls"),
    "a family of blocks where there are none": (
        *("family", {"kinds": ["bottleneck"], "budgets": ["flops=5%"]}, "residual blocks"),
    ),
    "the oracle against itself": (
        *("correlation", {"criterion": ["oracle"]}, "criterion must not be oracle: all others"),
    ),
    "parts of streams that are left out": (
        *("correlation", {"gates_per": "convolution"}, "gates_per has no effect without prune_r"),
    ),
}
EVERY_ROUTE = ("python", "flags", "file", "http")


def _run(kind: StudyKind, settings: Mapping[str, Any]) -> object:
    """The study from Python."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    if kind == "family":
        return family_study.resume(FamilyConfig(NETWORK, **values, device="cpu"))
    if kind == "correlation":
        return correlation_study.run(CorrelationConfig(**values, device="cpu"))
    return package.run(SearchConfig(**values, device="cpu"))


def _refusal(
    route: str, settings: Mapping[str, Any], folder: Path, service: Any, kind: StudyKind = "search"
) -> str:
    """What is said of it, without whatever the route puts before or behind."""
    if route == "http":
        content = {**settings, **({"source": NETWORK} if kind == "family" else {})}
        answer = service.ask("POST", f"/v1/searches?kind={kind}", json.dumps(content).encode())
        assert answer.status == 422
        return str(answer.json["detail"])
    if route == "python":
        with pytest.raises(EspalierError) as error:
            _run(kind, settings)
        return str(error.value)
    if route == "file":
        file = folder / "search.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        file.write_text("\n".join(lines), encoding="utf-8")
        completed = espalier(*command(kind), f"--config={file}", "--device=cpu")
        file.unlink()
    else:
        completed = espalier(*command(kind), *as_arguments(settings), "--device=cpu")
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    return line.removeprefix("espalier: ")


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("route", EVERY_ROUTE)
def test_bad_input_is_one_line_before_training(
    service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, route: str
):
    monkeypatch.chdir(tmp_path)
    settings, expected = REFUSED[case]
    before = service.trace()
    message = _refusal(route, settings, tmp_path, service)
    assert expected in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    assert service.trace() == before


@pytest.mark.parametrize("case", REFUSED_OTHERS)
@pytest.mark.parametrize("route", EVERY_ROUTE)
def test_bad_input_of_other_studies_is_one_line_before_training(
    networked, beside: Path, tmp_path: Path, case: str, route: str
):
    kind, settings, expected = REFUSED_OTHERS[case]
    before, there = networked.trace(), sorted(beside.rglob("*"))
    message = _refusal(route, settings, tmp_path, networked, kind)
    assert expected in message
    assert "\n" not in message
    assert sorted(beside.rglob("*")) == there
    assert networked.trace() == before
