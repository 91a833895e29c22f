"""The command line in this process: flags, what bad input gets, and what can be retrieved."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
import torch
from PIL import Image
from samples import Completed, FinishedSearch, espalier, outcome, small_config
from torch import nn

import copycat
from pruning import Cost, measure_cost
from pruning.cost import format_count
from search.cli import SUMMARIES, cli
from search.commands.runs_folder import RunsFolder
from search.commands.search import search
from search.config.data_config import DataConfig
from search.config.explicit_settings import flag_of
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.results.report import Results
from search.studies.search_study import SearchResult
from search.system.exit_status import without_page_hint

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(completed: Completed) -> str:
    """What bad input gets: one line on standard error, nothing else, and status 2."""
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    assert line.startswith("espalier: ")
    return line.removeprefix("espalier: ")


# ---- flags


CHANGED_FLAGS = {
    "weights": "trained.pt",
    "weights-digest": "0123",
    "model": "resnet20",
    "budget": ("flops=25%", "params=300k"),
    "task": "own.tasks:Mine",
    "count-attention": True,
    "criterion": ("taylor", "fisher"),
    "granularity": ("filter", "filter+branch"),
    "schedule": ("one-shot", "iterative"),
    "set": ("branch.strength=0.5",),
    "linear-weight-decay": 0.1,
    "only": ("stage2.*",),
    "scope": "uniform",
    "gate-form": "clipped",
    "gate-penalty": "mean",
    "gate": ("branch=stage1.*",),
    "freeze-but": ("batchnorm",),
    "iterative-epochs": 2,
    "iterative-units": 5,
    "iterative-minibatches": 3,
    "iterative-surgery-every": 4,
    "iterative-score-momentum": 0.5,
    "iterative-learning-rate": 0.01,
    "iterative-flops-penalty": 1e-9,
    "iterative-reset-momentum": True,
    "iterative-score-every": 6,
    "trials": 9,
    "ladder": (0.9, 0.3),
    "profiles": 1,
    "seeds": 4,
    "equal-compute-pairs": False,
    "random-widths": True,
    "model-arg": ("depth=20", "act=a=b"),
    "ignore": ("layer1.*", "head"),
    "max-removed": ("layer2.*=50%",),
    "min-channels": 2,
    "scoring-batches": 7,
    "divisor": 4,
    "prune-residual": True,
    "exact": False,
    "whole-heads": True,
    "seed": 11,
    "concurrency": 3,
    "device": "cpu",
    "name": "changed",
    "runs": "somewhere",
    "mlflow-url": "http://127.0.0.1:5000",
    "data": "cifar10",
    "data-root": "elsewhere",
    "download": True,
    "image-size": 24,
    "flip": True,
    "limit-train": 1000,
    "validation-fraction": 0.25,
    "workers": 2,
    "epochs": 3,
    "fine-tune-epochs": 4,
    "scratch-epochs": 5,
    "batch-size": 6,
    "learning-rate": 0.07,
    "weight-decay": 0.0,
    "learning-rate-schedule": "step",
    "scratch-learning-rate": 0.05,
    "warmup-epochs": 2,
    "fine-tune-warmup-epochs": 1,
    "drop-at": (0.4, 0.8),
    "drop-by": 3.0,
    "clip-norm": 1.0,
    "ema-decay": 0.99,
    "label-smoothing": 0.1,
    "crop": "resized",
    "crop-area": 0.5,
    "augment": "randaugment",
    "augment-magnitude": 5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "distill": True,
    "equal-compute": True,
    "compute-limit": 3.5,
    "distill-from": "teacher",
    "distill-temperature": 2.0,
    "distill-weight": 0.5,
    "fine-tune-learning-rate": 0.01,
    "fine-tune-schedule": "constant",
    "sampler": "nsga2",
    "storage": "sqlite:///study.db",
    "early-stopping": False,
    "tempered-trials": 6,
    "candidate-epochs": 3,
    "cpus-per-trial": 2,
    "gpus-per-trial": 0.5,
    "ray-address": "10.0.0.1:6379",
    "trial-timeout": "30min",
    "checkpoint-every": "5min",
    "time-budget": "2h",
    "max-train-images": 5000,
    "memory-gb": 4.0,
    "register": "small-network",
}


EITHER = (
    {"nesterov": False, "by-products": 3, "gate-thresholds": ("branch=0.4",)},
    {"optimizer": "adamw", "targets": ("flops=5%", "params=90k")},
)
"""Settings that do not go together; those that go with few have tests of their own."""

ALONE = ("train-only", "gates-at", "settle-epochs", "cost-exponent", "descend")


@pytest.mark.parametrize("either", EITHER)
def test_every_setting_has_a_flag(asked: list[SearchConfig], either: dict[str, object]):
    arguments = []
    changed = CHANGED_FLAGS | either
    for name, value in changed.items():
        values = value if isinstance(value, tuple) else (value,)
        switches = {True: f"--{name}", False: f"--no-{name}"}
        arguments += [switches[v] if isinstance(v, bool) else f"--{name}={v}" for v in values]
    espalier("search", *arguments)
    (config,) = asked
    tables = ("data", "training", "gates", "iterative", "study", "resources")
    for table in ("", *tables):
        part = getattr(config, table) if table else config
        default = type(part)()
        for field in dataclasses.fields(part):
            flag = flag_of(field.name, table).removeprefix("--")
            if flag in {*ALONE, *EITHER[0], *EITHER[1]} - either.keys():
                continue
            is_changed = getattr(part, field.name) != getattr(default, field.name)
            assert is_changed, f"give {flag} another value than its default in CHANGED_FLAGS"
            if table or field.name not in tables:
                assert getattr(part, field.name) == changed[flag]


def test_gates_of_channels_are_asked_for(asked: list[SearchConfig]):
    espalier(
        *("search", "--criterion=scaling-factors", "--gates-at=convolution", "--settle-epochs=2")
    )
    (config,) = asked
    assert (config.gates.gates_at, config.gates.settle_epochs) == ("convolution", 2)


def test_exponents_of_costs_are_asked_for(asked: list[SearchConfig]):
    espalier("search", "--cost-exponent=0", "--cost-exponent=0.5")
    assert asked == [SearchConfig(cost_exponent=(0.0, 0.5))]


def test_sparse_training_alone_is_asked_for(asked: list[SearchConfig]):
    espalier("search", "--train-only")
    assert asked == [SearchConfig(train_only=True)]


def test_no_two_settings_have_the_same_flag():
    flags = [flag for parameter in search.params for flag in parameter.opts]
    assert len(flags) == len(set(flags))


def test_without_flags_the_defaults_are_asked_for(asked: list[SearchConfig]):
    espalier("search")
    assert asked == [SearchConfig()]


def test_flags_override_a_file(here: Path, asked: list[SearchConfig]):
    (here / "a.toml").write_text(
        'trials = 5\nbudget = ["flops=10%", "params=1M"]\nprune_residual = true\n'
        "[data]\nlimit_train = 70\nvalidation_fraction = 0.5\n[training]\nepochs = 3\n"
    )
    espalier(
        *("search", "--config", "a.toml", "--trials=6", "--budget=flops=20%"),
        *("--limit-train=80", "--no-prune-residual", "--scratch-epochs=2"),
    )
    assert asked == [
        SearchConfig(
            trials=6,
            budget=("flops=20%",),
            data=DataConfig(limit_train=80, validation_fraction=0.5),
            training=TrainingConfig(epochs=3, scratch_epochs=2),
        )
    ]


def test_without_a_command_the_help_is_shown():
    completed = espalier()
    assert (completed.status, completed.err) == (0, "")
    for command in ("search", "family", "pareto", "export", "ui"):
        assert f"\n  {command} " in completed.out


def test_the_list_of_commands_says_what_the_help_of_each_says():
    for name, summary in SUMMARIES.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.get_short_help_str(limit=len(summary) + 1) == summary


def test_help_states_every_default():
    text = " ".join(espalier("search", "--help").out.split())
    assert "[default: digits-vgg]" in text
    assert "[default: flops=10%]" in text
    assert "[default: 1.0 0.5 0.25]" in text


# ---- bad input


BAD_SETTINGS = {
    "no weights": (["--weights=none.pt"], "the weights none.pt cannot be read: No such file"),
    "weights of another network": (
        ["--weights=other.pt"],
        "the weights other.pt are of another network: 32 missing: features",
    ),
    "weights of another library": (
        ["--weights=torchvision:IMAGENET1K_V1"],
        "weights torchvision:IMAGENET1K_V1 are for networks torchvision:NAME, got search.models:",
    ),
    "no training without weights": (
        ["--epochs=0"],
        "epochs must be at least 1, got 0: only a network with trained --weights can be pruned",
    ),
    "argument without a value": (
        ["--model-arg=depth"],
        "model_arg must be NAME=VALUE, such as depth=20, got 'depth'",
    ),
    "unknown argument": (
        ["--model-arg=depth=3"],
        "digits-vgg takes no argument 'depth': did you mean num_classes, in_channels?",
    ),
    "ignored layer": (
        ["--ignore=features.convv1"],
        "ignore names 'features.convv1', which is no layer with channels of the network: did you",
    ),
    "cap without a share": (
        ["--max-removed=features.conv1"],
        "max_removed must be PATTERN=SHARE, such as layer4.*=50%, got 'features.conv1'",
    ),
    "cap of no layer": (
        ["--max-removed=*.head=10%"],
        "max_removed names '*.head', which is no layer with channels of the network",
    ),
    "unknown model": (
        ["--model=resnet2"],
        "no network is called 'resnet2'; did you mean resnet",
    ),
    "unknown torchvision model": (
        ["--model=torchvision:mobilenet_v9"],
        "did you mean torchvision:mobilenet_v",
    ),
    "unknown data": (["--data=cifar"], "no data set is called 'cifar'; did you mean cifar10?"),
    "malformed budget": (["--budget=flops"], "budget 'flops' is not understood: write quantity="),
    "budget on something unknown": (["--budget=speed=3"], "an unknown quantity 'speed'"),
    "unreachable budget": (
        ["--budget=flops=1k"],
        "flops of at most 1,000 (nearest reachable: 11,190)",
    ),
    "missing file": (["--config=none.toml"], "none.toml cannot be read: No such file"),
    "unknown key": (["--config=bad-key.toml"], "unknown key 'trails': did you mean trials"),
    "no TOML": (["--config=no.toml"], "no.toml is not valid TOML"),
    "no such folder": (["--data=imagefolder:nowhere"], "there is no folder 'nowhere'"),
    "no train/": (["--data=imagefolder:empty"], "there is no train/"),
    "no such table": (["--data=csv:none.csv"], "none.csv cannot be read: No such file"),
    "a table of absent images": (
        ["--data=csv:bad.csv"],
        "bad.csv, line 2: there is no image 'a.png'",
    ),
    "data that fail": (
        ["--data=bad_nets:raises"],
        "bad_nets:raises failed: ValueError: a b (bad_nets.py, line 14)",
    ),
    "data of another kind": (
        ["--data=bad_nets:no_module"],
        "bad_nets:no_module must return (train, test), (train, validation, test), a mapping",
    ),
    "no such data": (["--data=no_such_module:make"], "data of one's own: cannot import 'no_such"),
    "targets of another task": (
        ["--data=data_of_users:floats_as_labels"],
        "sample 0 of the train part of data_of_users:floats_as_labels does not fit the task: "
        "expected targets to be int64 (batch,), numbers of classes (several labels are learned by "
        "--task multilabel, other numbers by --task regression), got (1,) of torch.float32",
    ),
    "items that are no pairs": (
        ["--data=data_of_users:triples"],
        "items of the train part of data_of_users:triples must be pairs (inputs, targets), got a",
    ),
    "data that yield nothing": (
        ["--data=data_of_users:empty_stream"],
        "the test part of data_of_users:empty_stream has no samples",
    ),
    "labels outside the classes": (
        ["--data=data_of_users:label_outside"],
        "sample 2 of the train part of data_of_users:label_outside has the label 2, but there are",
    ),
    "a task that fails": (
        ["--task=bad_nets:raises"],
        "the task bad_nets:raises failed: ValueError: a b (bad_nets.py, line 14)",
    ),
    "a task without a score": (["--task=bad_nets:Scoreless"], "bad_nets:Scoreless must say its"),
    "a share of data that are split": (
        ["--data=data_of_users:with_targets", "--validation-fraction=0.3"],
        "validation_fraction has no effect on data_of_users:with_targets",
    ),
    "a size of what is not ours": (
        ["--data=data_of_users:plain", "--image-size=8"],
        "image_size has no effect on data_of_users:plain, whose Datasets have transforms of",
    ),
    "differing sizes": (
        ["--data=imagefolder:sizes"],
        "images must be of one size, but sizes/train/a/0.png is 8×8 and",
    ),
    "unreadable image": (
        ["--data=imagefolder:broken"],
        "cannot read image broken/test/b/0.png",
    ),
    "absent data": (["--data=cifar10", "--data-root=d"], "give --download to fetch it"),
    "module that is not there": (["--model=no_such_module:make"], "cannot import 'no_such_module'"),
    "module that raises": (["--model=bad_raises:make"], "cannot import 'bad_raises': RuntimeError"),
    "attribute that is not there": (["--model=bad_nets:none"], "has no attribute 'none'"),
    "not callable": (["--model=bad_nets:number"], "bad_nets:number must be callable, got int"),
    "not a module": (
        ["--model=bad_nets:no_module"],
        "bad_nets:no_module must return a torch.nn.Module, got str",
    ),
    "builder that raises": (["--model=bad_nets:raises"], "bad_nets:raises failed: ValueError: a b"),
    "wrong output": (
        ["--model=bad_nets:wrong_output"],
        "must return logits of shape (batch, 10) in eval mode, got (1, 7)",
    ),
    "no batch norm": (
        ["--model=bad_nets:no_norm"],
        "bad_nets:no_norm has no prunable channels with batch normalisation",
    ),
    "wrong channels": (["--model=bad_nets:colour"], "bad_nets:colour: "),
    "out of range": (["--trials=0"], "trials must be at least 1, got 0"),
    "not a number": (["--trials=many"], "'many' is not a valid integer"),
    "unknown flag": (["--trial=3"], "No such option"),
    "bad name": (["--name=a/b"], "name must be letters, digits and . _ + - only"),
    "a class left without images": (["--limit-train=5"], "no training image left"),
}

BAD_NETS = """
from torch import nn

from search import Score, Task

number = 3


def no_module():
    return "a network"


def raises():
    raise ValueError("a\\nb")


def sequence(channels, norm, classes):
    layers = [nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8) if norm else nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def wrong_output():
    return sequence(1, True, 7)


def no_norm(num_classes):
    return sequence(1, False, num_classes)


def colour(num_classes):
    return sequence(3, True, num_classes)


class Scoreless(Task):
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def evaluate(self, model, loader):
        return float("nan")


class Unmeasurable(Scoreless):
    score = Score("closeness")
"""


@pytest.fixture
def bad_things(here: Path) -> Path:
    """A folder full of what can be given by mistake."""
    (here / "no.toml").write_text("trials =")
    (here / "bad.csv").write_text("path,label\na.png,x\n")
    (here / "bad-key.toml").write_text("trails = 3")
    (here / "bad_nets.py").write_text(BAD_NETS)
    (here / "bad_raises.py").write_text("raise RuntimeError('at\\nimport')")
    torch.save(nn.Linear(3, 10).state_dict(), here / "other.pt")
    (here / "empty" / "test").mkdir(parents=True)
    for folder in ("sizes", "broken"):
        for part in ("train", "test"):
            for name in "ab":
                (here / folder / part / name).mkdir(parents=True)
                for number in range(4):
                    image = Image.new("RGB", (8, 8), (number, 0, 0))
                    image.save(here / folder / part / name / f"{number}.png")
    Image.new("RGB", (9, 8)).save(here / "sizes" / "train" / "b" / "3.png")
    (here / "broken" / "test" / "b" / "0.png").write_bytes(b"\x89PNG")
    return here


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_input_gets_one_line_and_nothing_is_written(
    bad_things: Path, case: str, monkeypatch: pytest.MonkeyPatch
):
    for module in ("bad_nets", "bad_raises"):  # every test has a folder of its own
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    arguments, expected = BAD_SETTINGS[case]
    before = sorted(bad_things.rglob("*"))
    assert expected in one_line(espalier("search", *arguments))
    assert sorted(bad_things.rglob("*")) == before


def test_a_task_whose_scores_are_no_numbers_is_refused_before_training(
    bad_things: Path, monkeypatch: pytest.MonkeyPatch
):
    """After the preflight, which measures nothing where there are no weights."""
    monkeypatch.delitem(sys.modules, "bad_nets", raising=False)
    completed = espalier("search", "--task=bad_nets:Unmeasurable", "--name=s")
    (line,) = completed.err.splitlines()
    assert completed.status == 2
    assert "the closeness of the network is nan" in line
    assert not (bad_things / "espalier-runs" / "s").exists()


def test_a_folder_that_holds_another_search_is_refused(
    finished_search: FinishedSearch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(finished_search.runs.parent)
    before = {path: path.stat().st_mtime_ns for path in finished_search.folder.rglob("*")}
    line = one_line(espalier("search", *finished_search.flags, "--epochs=5", "--trials=4"))
    assert (
        "runs/tiny holds another search, which differs in training.epochs (it has 4, now 5), "
        "trials (it has 3, now 4): "
    ) in line
    assert {path: path.stat().st_mtime_ns for path in finished_search.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pareto"], "Missing argument 'SEARCH'"),
        (["pareto", "none"], "espalier-runs/none holds no search"),
        (["export", "x"], "Missing option '--out'"),
        (["export", "x", "--out=o"], "an architecture is SEARCH/NAME or a folder, got 'x'"),
        (["export", "none/x", "--out=o"], "none has no architecture 'x'"),
        (["nonsense"], "No such command 'nonsense'"),
        (["export", "x/y", "--out=o", "--alias=a"], "--alias has no effect without --register"),
        (["export", "x/y", "--as-python=o", "--format=onnx"], "--format has no effect without --o"),
        (["serve", "--ray-python=python3"], "ray_python has no effect without a cluster"),
        (["serve", "--mlflow-url=http://m", "--mlflow-port=1"], "mlflow_port has no effect beside"),
        (["correlate", "--model=3:4", "--seed=-1"], "seed must be at least 0, got -1"),
    ],
)
def test_other_commands_answer_bad_input_in_one_line(
    here: Path, arguments: list[str], expected: str
):
    assert expected in one_line(espalier(*arguments))
    assert list(here.iterdir()) == []


# ---- what is said at the end


def test_reasons_and_notes_are_shown_as_they_are(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Brackets in them mean nothing to the terminal."""
    config = small_config(Path(), runs="runs")
    odd = "no [/bold] luck with [red]"
    results = Results(
        base=Cost(2000, 200),
        budget="flops=10%",
        num_test=100,
        everything=(outcome(),),
        front=(outcome(),),
        contests=(),
        failures={"trial 3": odd},
        notes=(odd,),
    )
    result = SearchResult(results.front, results.verdict, config.directory, results)
    monkeypatch.setattr("search.studies.search_study.run", lambda *_, **__: result)
    completed = espalier("search")
    assert (completed.status, completed.err) == (0, "")
    assert f"Note: {odd}" in completed.out
    assert f"trial 3: {odd}" in completed.out


def test_an_interruption_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*_: object, **__: object) -> SearchResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.studies.search_study.run", run)
    completed = espalier("search", "--name=s")
    assert completed.status == 130
    assert completed.err.strip() == (
        "Stopped. What was finished is kept in espalier-runs/s, and what was under way up to its "
        "last checkpoint: go on with  espalier resume s"
    )


# ---- pareto


def test_pareto_prints_the_front_as_a_table(finished_search: FinishedSearch):
    by_name = espalier("pareto", "tiny", "--runs", finished_search.runs)
    by_path = espalier("pareto", finished_search.folder)
    assert by_name == by_path
    assert (by_name.status, by_name.err) == (0, "")
    results = finished_search.results
    advice, table = by_name.out.split("\n\n")
    for entry in results.recommendations:
        assert entry.text in " ".join(advice.split())
    assert advice.startswith("Take ")
    keys = [line.split()[0] for line in table.splitlines()]
    places = [keys.index(key) for key in ("base", *(o.key for o in results.front))]
    assert places == sorted(places)
    assert "fvcore" in table


def test_a_bound_of_ones_own_has_a_recommendation_of_its_own(finished_search: FinishedSearch):
    cheapest = finished_search.results.front[0]
    bounded = ("pareto", finished_search.folder, f"--max=flops={cheapest.flops}")
    words = " ".join(espalier(*bounded).out.split())
    assert words.startswith(f"Take {cheapest.key} within flops={format_count(cheapest.flops)}")
    none = espalier("pareto", finished_search.folder, f"--max=flops={cheapest.flops - 1}")
    assert none.out.startswith("Nothing to take within flops=")


def test_a_report_speaks_json(finished_search: FinishedSearch):
    results, folder = finished_search.results, finished_search.folder
    content = json.loads(espalier("report", folder, "--json").out)
    taken = [entry["architecture"] for entry in content["recommendations"]]
    assert taken == [entry.key for entry in results.recommendations]
    assert content["base"]["flops_share"] == 1
    assert [row["architecture"] for row in content["networks"]] == [
        o.key for o in results.everything
    ]
    assert "--out has no effect beside --json" in one_line(
        espalier("report", folder, "--json", "--out=r.html")
    )


def test_a_name_means_a_search_not_any_folder(
    finished_search: FinishedSearch, here: Path, monkeypatch: pytest.MonkeyPatch
):
    (here / "tiny").mkdir()
    assert espalier("pareto", "tiny", "--runs", finished_search.runs).status == 0
    monkeypatch.chdir(finished_search.runs)
    assert espalier("pareto", "tiny").status == 0


def test_pareto_speaks_json_and_csv(finished_search: FinishedSearch):
    front = finished_search.results.front
    rows = json.loads(espalier("pareto", finished_search.folder, "--json").out)
    assert [row["architecture"] for row in rows] == [o.key for o in front]
    assert [row["flops"] for row in rows] == [o.flops for o in front]
    assert all(row["slack"].keys() == {"flops", "params"} for row in rows)
    assert all(0 <= slack < 1 for row in rows for slack in row["slack"].values())
    text = espalier("pareto", finished_search.folder, "--csv").out
    assert [row["architecture"] for row in csv.DictReader(io.StringIO(text))] == [
        o.key for o in front
    ]
    for row in rows:
        assert (finished_search.folder / row["path"] / "architecture.json").exists()


def test_pareto_lists_what_costs_at_most_so_much(finished_search: FinishedSearch):
    front = finished_search.results.front
    base = finished_search.results.base
    cheapest = front[0]

    def keys(*bounds: str) -> list[str]:
        flags = [f"--max={bound}" for bound in bounds]
        rows = json.loads(espalier("pareto", finished_search.folder, *flags, "--json").out)
        return [row["architecture"] for row in rows]

    assert keys("flops=10%") == [o.key for o in front]
    assert keys(f"flops={cheapest.flops}") == [cheapest.key]
    assert keys(f"flops={cheapest.flops - 1}") == []
    assert keys("flops=10%", f"params={cheapest.params - 1}") == [
        o.key for o in front if o.params < cheapest.params
    ]
    assert keys("params=3%") == [o.key for o in front if o.params <= int(0.03 * base.params)]
    assert "'flops' is not understood" in one_line(
        espalier("pareto", finished_search.folder, "--max=flops")
    )


def test_pareto_says_when_a_search_has_not_finished(finished_search: FinishedSearch, here: Path):
    shutil.copytree(finished_search.folder, here / "half")
    (here / "half" / "results.json").unlink()
    line = one_line(espalier("pareto", "half"))
    message = "the search in half has not finished: go on with `espalier resume half`"
    assert line == f"{message} (docs/how-to/resuming.md)"


# ---- export

REBUILD = """
import sys
import tempfile
for name in ("ray", "optuna", "mlflow"):
    sys.modules[name] = None  # importing it raises
import torch, copycat
network = copycat.load("out")
print(tuple(network(torch.zeros(2, 1, 8, 8)).shape), network.training)
"""


def test_an_export_is_rebuilt_without_ray_optuna_and_mlflow(
    finished_search: FinishedSearch, here: Path
):
    chosen = finished_search.results.front[0]
    name, runs = f"tiny/{chosen.key}", finished_search.runs
    completed = espalier("export", name, "--out=out", "--runs", runs)
    assert (completed.status, completed.err) == (0, "")
    assert "copycat.load('out')" in completed.out
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "architecture.json",
        "weights.safetensors",
    ]
    rebuilt = subprocess.run(
        [sys.executable, "-c", REBUILD], cwd=here, capture_output=True, text=True, check=False
    )
    assert (rebuilt.stdout, rebuilt.stderr) == ("(2, 10) False\n", "")
    images = torch.rand(3, 1, 8, 8)
    there = copycat.load(finished_search.folder / chosen.path)
    assert torch.equal(copycat.load(here / "out")(images), there(images))
    cost = measure_cost(copycat.load(here / "out"), images[:1])
    assert (cost.flops, cost.params) == (chosen.flops, chosen.params)


def test_what_is_stored_can_be_exported_by_path_too(finished_search: FinishedSearch, here: Path):
    chosen = finished_search.results.front[-1]
    source = finished_search.folder / chosen.path
    assert espalier("export", source, "--out", here / "a").status == 0
    assert espalier("export", f"{finished_search.folder}/{chosen.key}", "--out=b").status == 0
    for folder in ("a", "b"):
        assert copycat.read(here / folder) == copycat.read(source)


def test_export_names_what_there_is(finished_search: FinishedSearch, here: Path):
    line = one_line(espalier("export", "tiny/none", "--out=o", "--runs", finished_search.runs))
    keys = sorted(o.key for o in finished_search.results.networks)
    assert without_page_hint(line) == f"tiny has no architecture 'none': it has {', '.join(keys)}"


def test_export_overwrites_nothing(finished_search: FinishedSearch, here: Path):
    chosen = finished_search.folder / finished_search.results.front[0].path
    (here / "taken").mkdir()
    (here / "file").write_text("precious")
    assert "taken already exists" in one_line(espalier("export", chosen, "--out=taken"))
    assert "cannot write file/x" in one_line(espalier("export", chosen, "--out=file/x"))
    assert (here / "file").read_text() == "precious"


def test_export_refuses_damaged_weights(finished_search: FinishedSearch, here: Path):
    chosen = finished_search.results.front[0]
    shutil.copytree(finished_search.folder / chosen.path, here / "copy")
    weights = here / "copy" / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-400] + bytes(400))
    assert "weights.safetensors" in one_line(espalier("export", here / "copy", "--out=out"))
    assert not (here / "out").exists()
    assert not (here / "out").exists()


# ---- what nobody foresaw


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> SearchResult:
        raise KeyError("of\nsomebody else")

    monkeypatch.setattr("search.studies.search_study.run", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("_broken")
def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(here: Path):
    completed = espalier("search", "--name=s")
    assert (completed.status, completed.out) == (1, "")
    (line,) = completed.err.splitlines()
    found = re.fullmatch(
        r"espalier: KeyError: 'of\\nsomebody else': nobody foresaw this: please report it "
        r"\(details are in (.*)\)",
        line,
    )
    assert found is not None
    assert Path(found[1]).read_text().startswith("Traceback")


def test_a_reader_that_has_enough_is_no_error(finished_search: FinishedSearch):
    """As in `espalier pareto SEARCH | head -0`."""
    command = [sys.executable, "-m", "search.cli", "pareto", str(finished_search.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


# ---- commands to type


def test_commands_for_folders_with_blanks_can_be_typed(here: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*_: object, **__: object) -> SearchResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.studies.search_study.run", run)
    completed = espalier("search", "--name=s", "--runs=my runs")
    command = completed.err.strip().partition("go on with  ")[2]
    assert shlex.split(command) == ["espalier", "resume", "s", "--runs", "my runs"]


def test_what_is_printed_at_the_end_can_be_typed_too(
    finished_search: FinishedSearch, tmp_path: Path
):
    folder = tmp_path / "my runs" / "it's mine"
    place = RunsFolder(str(folder.parent))
    steps = place.next_steps(str(folder), finished_search.results)
    key = finished_search.results.first_choice
    _, pareto, export = (
        shlex.split(line.partition("espalier")[2])
        for line in steps.splitlines()
        if "  espalier " in line
    )
    assert pareto == ["pareto", "it's mine", "--runs", str(folder.parent)]
    assert export[:2] == ["export", f"it's mine/{key}"]


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ((), ([], [])),
        (("--model=torchvision.models:resnet18",), (["torchvision.models"], [])),
        (("--model=digits-vgg", "--data=samples:patterns"), (["samples"], [])),
        (("--model=samples:small_network",), (["samples"], ["samples"])),
    ],
)
def test_trust_is_named_only_where_a_command_needs_it(
    finished_search: FinishedSearch,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    needed: tuple[list[str], list[str]],
):
    """A network of the zoo or of torchvision is built without it; settings of a folder are not."""
    to_resume, to_export = needed
    monkeypatch.setattr("search.studies.search_study.run", lambda *_, **__: finished_search)
    done = espalier("search", "--name=s", *flags)
    assert trusted(done.out.partition("take one with you")[2]) == to_export

    def interrupted(*_: object, **__: object) -> SearchResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.studies.search_study.run", interrupted)
    assert trusted(espalier("search", "--name=s", *flags).err) == to_resume


def trusted(line: str) -> list[str]:
    words = shlex.split(line)
    return [words[place + 1] for place, word in enumerate(words) if word == "--trust"]
