"""Settings mean the same in Python, in JSON and in TOML, and bad ones are told apart."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import BudgetError, ConfigError, EspalierError
from search.config.correlation_config import CorrelationConfig
from search.config.data_config import DataConfig
from search.config.family_config import FamilyConfig, over_recipe
from search.config.gates_config import GatesConfig
from search.config.iterative_config import IterativeConfig
from search.config.resources_config import ResourcesConfig
from search.config.search_config import MOST_TRIALS, SearchConfig
from search.config.settings import from_mapping, read_toml
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.training.schedules import learning_rates

EXAMPLE = Path(__file__).parents[3] / "examples" / "digits.toml"

CHANGED = SearchConfig(
    weights="trained.pt",
    weights_digest="0123",
    model="resnet20",
    budget=("flops=25%", "params<=300k"),
    task="own.tasks:Mine",
    data=DataConfig(
        source="cifar10",
        root="elsewhere",
        download=True,
        image_size=24,
        flip=True,
        limit_train=1000,
        validation_fraction=0.25,
        workers=2,
    ),
    training=TrainingConfig(
        epochs=3,
        fine_tune_epochs=4,
        scratch_epochs=5,
        batch_size=6,
        learning_rate=0.07,
        fine_tune_learning_rate=0.02,
        fine_tune_schedule="constant",
        scratch_learning_rate=0.05,
        warmup_epochs=2,
        fine_tune_warmup_epochs=1,
        weight_decay=0.0,
        linear_weight_decay=0.05,
        schedule="step",
        drop_at=(0.4, 0.8),
        drop_by=3.0,
        nesterov=False,
        clip_norm=1.0,
        ema_decay=0.99,
        label_smoothing=0.1,
        crop="resized",
        crop_area=0.5,
        augment="randaugment",
        augment_magnitude=5,
        mixup=0.2,
        cutmix=1.0,
        equal_compute=True,
        compute_limit=3.5,
        distill=True,
        distill_from="teacher",
        distill_temperature=2.0,
        distill_weight=0.5,
    ),
    gates=GatesConfig(
        gate_form="clipped",
        gate_penalty="mean",
        gate_thresholds=("0.5", "branch=0.4"),
        gate=("branch=*.block1",),
        freeze_but=("batchnorm", "last"),
    ),
    study=StudyConfig(
        sampler="nsga2",
        storage="sqlite:///study.db",
        early_stopping=False,
        by_products=3,
        tempered_trials=6,
        candidate_epochs=3,
    ),
    resources=ResourcesConfig(
        cpus_per_trial=2,
        gpus_per_trial=0.5,
        ray_address="10.0.0.1:6379",
        trial_timeout="30min",
        checkpoint_every="5min",
        time_budget="2h",
        max_train_images=5000,
        memory_gb=4.0,
    ),
    count_attention=True,
    criterion=("taylor", "fisher"),
    granularity=("filter", "filter+branch"),
    schedule=("one-shot", "iterative"),
    set=("branch.strength=0.5",),
    iterative=IterativeConfig(
        epochs=2,
        units=5,
        minibatches=3,
        surgery_every=4,
        score_momentum=0.5,
        learning_rate=0.01,
        flops_penalty=1e-9,
        reset_momentum=True,
        score_every=6,
    ),
    trials=9,
    ladder=(0.9, 0.3),
    profiles=1,
    seeds=4,
    equal_compute_pairs=False,
    random_widths=True,
    model_arg=("depth=20", "act=relu"),
    ignore=("layer1.*", "head"),
    only=("*.conv1",),
    max_removed=("layer2.*=50%",),
    min_channels=2,
    divisor=8,
    scope="uniform",
    scoring_batches=7,
    prune_residual=True,
    exact=False,
    whole_heads=True,
    seed=11,
    concurrency=3,
    device="cpu",
    name="changed",
    runs="somewhere",
    mlflow_url="http://127.0.0.1:5000",
    register="small-network",
)
WITH_ADAMW = dataclasses.replace(
    CHANGED,
    training=dataclasses.replace(CHANGED.training, optimizer="adamw", nesterov=True),
    study=dataclasses.replace(CHANGED.study, by_products=StudyConfig.by_products),
    gates=dataclasses.replace(CHANGED.gates, gate_thresholds=()),
    targets=("params=300k:900k:200k", "flops=5%"),
)
WEIGHED = SearchConfig(
    criterion=("taylor",), cost_exponent=(0.0, 0.5), study=StudyConfig(descend=True)
)
TRAIN_ONLY = SearchConfig(train_only=True)
DESCENDING = StudyConfig(descend=True)
GATED = SearchConfig(
    criterion=("scaling-factors",), gates=GatesConfig(gates_at="convolution", settle_epochs=10)
)
"""Between them, every field has another value than by default; see the first test."""


def from_toml(path: Path) -> SearchConfig:
    return from_mapping(SearchConfig, read_toml(path), str(path))


def as_toml(content: Mapping[str, object]) -> str:
    """TOML of settings without None; JSON's texts, numbers and lists are TOML's, too."""
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in content.items() if k not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", as_toml(table)]
    return "\n".join(lines)


def test_the_changed_settings_of_these_tests_cover_every_field():
    config = CHANGED
    tables = (config.data, config.training, config.gates, config.study, config.resources)
    for changed in (CHANGED, *tables, CHANGED.iterative):
        default = type(changed)()
        for field in dataclasses.fields(changed):
            elsewhere = {"targets": WITH_ADAMW, "train_only": TRAIN_ONLY}
            elsewhere |= {"cost_exponent": WEIGHED, "descend": WEIGHED.study}
            elsewhere["optimizer"] = WITH_ADAMW.training
            elsewhere |= {"gates_at": GATED.gates, "settle_epochs": GATED.gates}
            one = elsewhere.get(field.name, changed)
            is_changed = getattr(one, field.name) != getattr(default, field.name)
            assert is_changed, f"give {field.name} another value than its default in CHANGED"


@pytest.mark.parametrize(
    "config",
    [SearchConfig(), CHANGED, WITH_ADAMW, WEIGHED],
    ids=["default", "changed", "adamw", "weighed"],
)
def test_settings_survive_json(config: SearchConfig):
    assert from_mapping(SearchConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_settings_survive_toml(tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text(as_toml(dataclasses.asdict(CHANGED)), encoding="utf-8")
    assert from_toml(file) == CHANGED


def test_nothing_given_means_the_defaults(tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text("[data]\n[training]\n")
    assert from_toml(file) == from_mapping(SearchConfig, {}) == SearchConfig()


def test_the_example_is_the_embedded_default():
    config = from_toml(EXAMPLE)
    assert (config.name, config.model, config.data.source) == ("digits", "digits-vgg", "digits")
    assert config.trials >= 8
    assert len(config.ladder) == 3


def test_a_whole_number_serves_as_a_real_one():
    assert from_mapping(TrainingConfig, {"learning_rate": 1}).learning_rate == 1
    assert from_mapping(SearchConfig, {"ladder": [1]}).ladder == (1.0,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"modle": "resnet20"}, "unknown key 'modle': did you mean model"),
        ({"data": {"limit_trian": 3}}, "unknown key 'data.limit_trian': did you mean limit_train"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch': did you mean epochs"),
        ({"zzz": 3}, "unknown key 'zzz': known: model, model_arg, weights"),
        ({"epochs": 3}, "unknown key 'epochs'"),
    ],
)
def test_an_unknown_key_is_named_with_those_like_it(content, expected):
    with pytest.raises(ConfigError) as error:
        from_mapping(SearchConfig, content, "search.toml")
    assert f"search.toml has an {expected}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": 3}, "model must be a text, got 3"),
        ({"trials": "8"}, "trials must be a whole number, got '8'"),
        ({"trials": 8.0}, "trials must be a whole number, got 8.0"),
        ({"trials": True}, "trials must be a whole number, got True"),
        ({"prune_residual": 1}, "prune_residual must be true or false, got 1"),
        ({"budget": "flops=10%"}, "budget must be a list of texts, got 'flops=10%'"),
        ({"budget": [0.1]}, "budget must be a list of texts, got [0.1]"),
        ({"ladder": 0.5}, "ladder must be a list of numbers, got 0.5"),
        ({"ladder": [0.5, "1"]}, "ladder must be a list of numbers, got [0.5, '1']"),
        ({"ladder": [True]}, "ladder must be a list of numbers, got [True]"),
        ({"data": "digits"}, "'data' must be a table, got 'digits'"),
        ({"data": {"limit_train": 1.5}}, "data.limit_train must be a whole number, got 1.5"),
        ({"training": {"learning_rate": "high"}}, "training.learning_rate must be a number"),
    ],
)
def test_a_wrong_type_is_named_with_what_was_got(content, expected):
    with pytest.raises(ConfigError) as error:
        from_mapping(SearchConfig, content, "search.toml")
    assert str(error.value).startswith(f"search.toml: {expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"profiles": -1}, "profiles must be at least 0, got -1"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"min_channels": 0}, "min_channels must be at least 1, got 0"),
        ({"divisor": 0}, "divisor must be at least 1, got 0"),
        (
            {"budget": ("params=1k", "latency_ms=3")},
            "a search prunes by closed forms (flops, params, weight_bytes, peak_activation_bytes, "
            "multiply_adds, channels) "
            "and cannot measure every candidate, got 'latency_ms=3': search without it, then "
            "`espalier family SEARCH/NAME --budgets latency_ms=3` fits the shape to it",
        ),
        (
            {"divisor": 8, "criterion": ("scaling-factors",)},
            "scaling-factors removes channels one by one, by their gates: it knows no divisor",
        ),
        (
            {"gates": {"gate_form": "clipped"}},
            "gate_form has no effect without gates: only scaling-factors, or a granularity besides",
        ),
        (
            {"gates": {"gates_at": "convolution"}, "granularity": ("filter+branch",)},
            "gates_at has no effect without --criterion scaling-factors on filters",
        ),
        (
            {"gates": {"gate": ("layer=x",)}, "criterion": ("scaling-factors",)},
            "gate names layer, which has no learnable gates in this search: those are of filter",
        ),
        (
            {"gates": {"gate": ("*.conv1",)}, "criterion": ("scaling-factors",)},
            "gate must be GRANULARITY=PATTERN with one of filter, layer, full-layer, branch, block",
        ),
        (
            {"gates": {"gate_thresholds": ("branch=0.5",)}, "granularity": ("layer+branch",)},
            "gate_thresholds lacks one for layer, whose gates layer+branch learns: add layer=0.5",
        ),
        (
            {"gates": {"gate_thresholds": ("2",)}, "criterion": ("scaling-factors",)},
            "gate_thresholds must be numbers from 0 to 1, such as 0.5 or filter=0.5",
        ),
        (
            {
                "gates": {"gate_thresholds": ("0.5",)},
                "criterion": ("scaling-factors",),
                "targets": ("flops=5%",),
            },
            "targets has no effect with gate_thresholds, which know no target",
        ),
        (
            {
                "gates": {"settle_epochs": 1},
                "granularity": ("filter+branch",),
                "criterion": ("taylor",),
                "schedule": ("iterative",),
            },
            "settle_epochs has no effect with the schedule iterative, which begins once gates have",
        ),
        ({"gates": {"freeze_but": ("first",)}}, "freeze_but must be some of batchnorm, last"),
        ({"gates": {"settle_epochs": -1}}, "settle_epochs must be at least 0, got -1"),
        (
            {"granularity": ("full-layer+layer",)},
            "granularity must have one of layer and full-layer, of the same convolutions",
        ),
        (
            {"scope": "uniform", "criterion": ("random", "scaling-factors")},
            "scaling-factors removes channels one by one, by their gates: it knows no scope; leave",
        ),
        (
            {"cost_exponent": (0.5,), "criterion": ("taylor", "ucs")},
            "cost_exponent weighs scores of all layers together, and ucs ranks those of each layer",
        ),
        (
            {"scope": "uniform", "granularity": ("filter", "branch+block")},
            "scope uniform removes a share of every layer's channels, and granularity branch+block",
        ),
        ({"scope": "local"}, "scope must be one of global, uniform, got 'local'"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, "seed must be below 4,294,967,296, got 4294967296"),
        ({"ladder": []}, "ladder must be fractions above 0 and at most 1, got ()"),
        ({"ladder": [1.1]}, "ladder must be fractions above 0 and at most 1, got (1.1,)"),
        ({"cost_exponent": []}, "cost_exponent must be powers from 0 to 1, got ()"),
        ({"cost_exponent": [1.1]}, "cost_exponent must be powers from 0 to 1, got (1.1,)"),
        (
            {"cost_exponent": [1], "scope": "uniform"},
            "cost_exponent weighs scores of all layers together, and scope",
        ),
        (
            {"cost_exponent": [1], "criterion": ["scaling-factors"]},
            "cost_exponent weighs the scores of channels, and nothing",
        ),
        ({"ladder": [0]}, "ladder must be fractions above 0 and at most 1, got (0.0,)"),
        ({"ladder": [float("nan")]}, "the configuration: ladder must be a list of numbers, got"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"name": "../up"}, "name must be letters, digits and . _ + - only, got '../up'"),
        ({"name": "-x"}, "name must be"),
        ({"data": {"source": ""}}, "data must be the name of a data set, got ''"),
        ({"data": {"validation_fraction": 0}}, "validation_fraction must be between 0 and 1"),
        ({"data": {"validation_fraction": 1.0}}, "validation_fraction must be between 0 and 1"),
        ({"data": {"limit_train": 0}}, "limit_train must be at least 1, got 0"),
        ({"data": {"image_size": 0}}, "image_size must be at least 1, got 0"),
        ({"training": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"training": {"fine_tune_epochs": 0}}, "fine_tune_epochs must be at least 1"),
        ({"training": {"scratch_epochs": 0}}, "scratch_epochs must be at least 1"),
        ({"training": {"batch_size": 0}}, "batch_size must be at least 1"),
        ({"training": {"learning_rate": 0}}, "learning_rate must be above 0, got 0"),
        ({"training": {"learning_rate": float("inf")}}, "learning_rate must be above 0, got inf"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate must be above 0, got nan"),
        ({"training": {"weight_decay": -0.1}}, "weight_decay must be at least 0, got -0.1"),
        (
            {"training": {"recipe": "x"}},
            "the configuration: training.recipe must be the name of a recipe, got 'x': known: rni,",
        ),
        (
            {"training": {"recipe": "imagnet"}},
            "the configuration: training.recipe must be the name of a recipe, got 'imagnet': did "
            "you mean imagenet?",
        ),
        ({"training": {"recipe": ["rni"]}}, "the configuration: training.recipe must be the name"),
        (
            {"training": {"schedule": "x"}},
            "schedule must be one of rni, copycat, step, cosine, one-cycle, constant, got 'x'",
        ),
        ({"training": {"optimizer": "lion"}}, "optimizer must be one of sgd, adamw, got 'lion'"),
        (
            {"training": {"optimizer": "adamw"}},
            "learning_rate must be below 0.1 with adamw, such as 0.001, got 0.1",
        ),
        (
            {
                "training": {
                    "optimizer": "adamw",
                    "learning_rate": 1e-3,
                    "fine_tune_learning_rate": 1.0,
                }
            },
            "fine_tune_learning_rate must be below 0.1 with adamw, such as 0.001, got 1.0",
        ),
        ({"training": {"warmup_epochs": -1}}, "warmup_epochs must be at least 0, got -1"),
        (
            {"training": {"warmup_epochs": 5, "epochs": 5}},
            "warmup_epochs must be below epochs, which is 5, got 5",
        ),
        (
            {"training": {"warmup_epochs": 6, "fine_tune_epochs": 5}},
            "warmup_epochs must be below fine_tune_epochs, which is 5, got 6",
        ),
        (
            {"training": {"warmup_epochs": 6, "scratch_epochs": 4}},
            "warmup_epochs must be below scratch_epochs, which is 4, got 6",
        ),
        (
            {"training": {"fine_tune_warmup_epochs": 6, "fine_tune_epochs": 5}},
            "fine_tune_warmup_epochs must be below fine_tune_epochs, which is 5, got 6",
        ),
        (
            {"training": {"schedule": "step", "drop_at": [0.5, 0.5]}},
            "drop_at must be rising fractions between 0 and 1, got (0.5, 0.5)",
        ),
        (
            {"training": {"schedule": "step", "drop_at": [0.5, 1.0]}},
            "drop_at must be rising fractions between 0 and 1, got (0.5, 1.0)",
        ),
        ({"training": {"schedule": "step", "drop_by": 1.0}}, "drop_by must be above 1, got 1.0"),
        ({"training": {"clip_norm": 0}}, "clip_norm must be above 0, got 0"),
        ({"training": {"ema_decay": 1.0}}, "ema_decay must be"),
        ({"training": {"label_smoothing": 1}}, "label_smoothing must be"),
        ({"training": {"mixup": -0.1}}, "mixup must be at least 0, got -0.1"),
        ({"training": {"cutmix": float("inf")}}, "cutmix must be at least 0, got inf"),
        ({"training": {"crop": "x"}}, "crop must be one of shifted, resized, got 'x'"),
        ({"training": {"crop": "resized", "crop_area": 0}}, "crop_area must be"),
        (
            {"training": {"augment": "autoaugment"}},
            "augment must be one of none, randaugment, trivialaugment, got 'autoaugment'",
        ),
        (
            {"training": {"augment": "randaugment", "augment_magnitude": 31}},
            "augment_magnitude must be from 0 to 30, got 31",
        ),
        ({"training": {"fine_tune_learning_rate": 0.0}}, "fine_tune_learning_rate must be above 0"),
        ({"training": {"fine_tune_schedule": "x"}}, "fine_tune_schedule must be one of rni, copy"),
        ({"training": {"compute_limit": 0.9}}, "compute_limit must be at least 1, got 0.9"),
        ({"training": {"distill_temperature": 0}}, "distill_temperature must be above 0, got 0"),
        ({"training": {"distill_weight": 1.1}}, "distill_weight must be from 0 to 1, got 1.1"),
        ({"training": {"distill_weight": float("nan")}}, "distill_weight must be from 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(content, expected):
    with pytest.raises(ConfigError) as error:
        from_mapping(SearchConfig, content)
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize("budget", [[], ["flops"], ["flops=0"], ["flops=10%", "flops=1M"]])
def test_a_malformed_budget_is_refused_at_once(budget):
    with pytest.raises(BudgetError):
        from_mapping(SearchConfig, {"budget": budget})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "digits-vgg-digits-flops-10"),
        (
            {
                "model": "torchvision:mobilenet_v2",
                "budget": ["flops=2.5M", "params<=300k"],
                "data": {"source": "imagefolder:/data/my birds"},
            },
            "torchvision-mobilenet-v2-my-birds-flops-2.5M-params-300k",
        ),
        ({"model": "_own.nets:make"}, "own.nets-make-digits-flops-10"),
        ({"name": "given"}, "given"),
    ],
)
def test_the_default_name_says_model_data_and_budget(settings, name):
    config = from_mapping(SearchConfig, settings)
    assert config.study_name == name
    assert config.directory == Path("espalier-runs", name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"trials = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML")],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "search.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        from_toml(file)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing\.toml cannot be read: No such file"):
        from_toml(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        from_toml(tmp_path)


def test_methods_and_granularities_are_listed_by_commas_or_one_by_one():
    config = SearchConfig(
        criterion=("taylor, fisher", "rni", "fisher"),
        granularity=("branch+filter,filter", "filter+branch"),
    )
    assert config.criteria == ("taylor", "fisher", "rni")
    assert config.granularities == ("filter+branch", "filter")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": ("tailor",)}, "criterion must be one of rni, .*taylor.* got 'tailor'"),
        ({"criterion": ("rni,",)}, "criterion must be one of .* got ''"),
        ({"criterion": ()}, "criterion must be at least one name"),
        ({"granularity": ("filter+filter",)}, "granularity must be one or several of filter, lay"),
        ({"granularity": ("twig",)}, "granularity must be .* got 'twig'"),
        ({"granularity": ()}, "granularity must be at least one name"),
        ({"schedule": ()}, "schedule must be at least one name"),
        (
            {"schedule": ("cosine",)},
            r"schedule must be some of one-shot, iterative \(training.schedule .* got 'cosine'",
        ),
        (
            {"schedule": ("one-shot,iterative",), "criterion": ("fisher,scaling-factors",)},
            "scaling-factors opens and closes gates while it trains, with no score that channels",
        ),
        (
            {"schedule": ("iterative",), "granularity": ("filter", "block")},
            "takes channels step by step, and block prunes none: leave iterative out, or prune "
            r"filter\+block",
        ),
        (
            {"iterative": IterativeConfig(units=3)},
            "units has no effect without the schedule iterative, got 3: leave it out",
        ),
        (
            {
                "schedule": ("iterative",),
                "training": TrainingConfig(fine_tune_epochs=5),
                "iterative": IterativeConfig(epochs=6),
            },
            "iterative epochs are of those of fine-tuning, which are 5, got 6",
        ),
        ({"scoring_batches": 0}, "scoring_batches must be at least 1, got 0"),
        (
            {"criterion": ("snip",), "granularity": ("filter+branch",)},
            "snip prunes before training, when gates have learned nothing",
        ),
    ],
)
def test_methods_and_granularities_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)


def test_targets_are_ladders_in_the_order_given_each_target_once():
    config = SearchConfig(targets=("params=10%:30%:10%, flops=1k", "params=20%"))
    assert list(map(str, config.target_bounds)) == [
        *("params=10%", "params=20%", "params=30%", "flops=1k")
    ]
    counting = dataclasses.replace(config, count_attention=True)
    assert str(counting.target_bounds[-1]) == "multiply_adds=1k"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("flops=nine",)}, "budget 'flops=nine' is not understood"),
        ({"targets": ("flops=1:2000:1",)}, "targets must be at most 1,000 targets, got 2000"),
        ({"targets": ("latency_ms=3",)}, "closed forms .*, got the target 'latency_ms=3'"),
        (
            {"targets": ("flops=5%",), "study": StudyConfig(by_products=2)},
            "by_products has no effect where targets say what each trial is pruned to, got 2",
        ),
        (
            {"targets": ("flops=1%", "flops=2%"), "criterion": ("snip",)},
            "snip prunes before training, so that one training comes to one target",
        ),
        (
            {"targets": ("flops=1%", "flops=2%"), "study": DESCENDING},
            "each target must be below the one before it, .*: flops=2% follows flops=1%",
        ),
        (
            {"targets": ("flops=2%", "params=1%"), "study": DESCENDING},
            "each target must be below the one before it, of the same quantity",
        ),
        ({"targets": ("flops=2%",), "study": DESCENDING}, "descend has no effect where trials"),
        (
            {"study": StudyConfig(by_products=0, descend=True)},
            "descend has no effect where trials come to one network each",
        ),
        (
            {"schedule": ("one-shot", "iterative"), "criterion": ("taylor",), "study": DESCENDING},
            "descend has no effect with the schedule iterative",
        ),
        (
            {"criterion": ("taylor", "snip"), "study": DESCENDING},
            "descend has no effect with snip for filter",
        ),
        (
            {"train_only": True, "study": DESCENDING},
            "descend has no effect where nothing is pruned",
        ),
        (
            {"granularity": ("filter", "branch"), "study": DESCENDING},
            "descend has no effect with rni for branch",
        ),
        (
            {"criterion": ("scaling-factors",), "study": DESCENDING},
            "descend has no effect with scaling-factors for filter",
        ),
    ],
)
def test_targets_that_are_refused(settings, message):
    with pytest.raises(EspalierError, match=message):
        SearchConfig(**settings)


def test_the_recipe_of_copycat_networks_is_the_papers():
    """Crowley et al., implementation details."""
    recipe = TrainingConfig(**TrainingConfig.RECIPES["copycat"])
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (200, 128, 0.1)
    assert (recipe.weight_decay, recipe.schedule, recipe.nesterov) == (5e-4, "copycat", False)
    assert recipe.for_fine_tuning().learning_rate == 8e-4
    assert TrainingConfig(**TrainingConfig.RECIPES["rni"]) == TrainingConfig()


def test_the_recipe_for_scaling_factors_is_the_papers():
    """Haider and Taj, §4.2 (an L2 norm of 0.05), §4.3 and §5.4."""
    recipe = TrainingConfig(**TrainingConfig.RECIPES["scaling-factors"])
    assert (recipe.epochs, recipe.fine_tune_epochs, recipe.batch_size) == (100, 20, 128)
    assert recipe.weight_decay == 2 * 0.05


def test_the_recipe_for_imagenet_is_the_rni_papers():
    """§5.1: 90 epochs and 30 of fine-tuning, batches of 512, rates of 0.1 and 0.01, which fall by
    ten after a third and two thirds.
    """
    recipe = TrainingConfig(**TrainingConfig.RECIPES["imagenet"])
    assert (recipe.epochs, recipe.fine_tune_epochs, recipe.batch_size) == (90, 30, 512)
    assert (recipe.optimizer, recipe.weight_decay, recipe.crop) == ("sgd", 1e-4, "resized")
    tuning = recipe.for_fine_tuning()
    for stage, highest in ((recipe, 0.1), (tuning, 0.01), (recipe.for_scratch(), 0.1)):
        third = stage.epochs // 3
        expected = [highest] * third + [highest / 10] * third + [highest / 100] * third
        assert learning_rates(stage, stage.epochs, 1).tolist() == pytest.approx(expected)
    assert tuning.epochs == 30


def test_the_recipe_for_cifar_is_one_cosine_over_200_epochs():
    """Loshchilov and Hutter, SGDR, §4.1."""
    recipe = TrainingConfig(**TrainingConfig.RECIPES["cifar"])
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (200, 128, 0.1)
    assert (recipe.weight_decay, recipe.schedule, recipe.nesterov) == (5e-4, "cosine", True)


def test_the_recipe_for_trained_networks_trains_for_a_quarter_at_a_tenth_of_the_rate():
    """Li et al., §4, retrain for 40 epochs, "one-fourth of the original training epochs"."""
    recipe, usual = TrainingConfig(**TrainingConfig.RECIPES["fine-tune"]), TrainingConfig()
    assert 4 * recipe.epochs == 4 * recipe.fine_tune_epochs == usual.epochs == 160
    assert 10 * recipe.learning_rate == 10 * recipe.for_fine_tuning().learning_rate == 0.1
    scratch = recipe.for_scratch()
    assert (scratch.epochs, scratch.learning_rate) == (usual.epochs, usual.learning_rate)


@pytest.mark.parametrize("name", TrainingConfig.RECIPES)
def test_every_recipe_does_for_every_kind_of_study(name: str):
    search = from_mapping(SearchConfig, {"training": {"recipe": name}})
    assert search.training == TrainingConfig(**TrainingConfig.RECIPES[name])
    training = over_recipe({"training": {"recipe": name}})["training"]
    family = FamilyConfig("p.json", training=TrainingConfig(**training))
    assert family.scratch_training.for_scratch().learning_rate == 0.1
    one_stage = {"fine-tune": 160}.get(name, search.training.epochs)
    assert family.scratch_training.scratch_epochs == one_stage


@pytest.mark.parametrize(
    ("settings", "flops", "epochs"),
    [
        ({}, 10, 160),
        ({"equal_compute": True}, 1000, 160),
        ({"equal_compute": True}, 600, 266),  # 160 · 1000 / 600, rounded down
        ({"equal_compute": True}, 500, 320),
        ({"equal_compute": True}, 10, 320),  # at most doubled, as Liu et al. do
        ({"equal_compute": True, "compute_limit": 8}, 250, 640),
        ({"equal_compute": True, "compute_limit": 8}, 100, 1280),
        ({"equal_compute": True, "compute_limit": 1.5}, 10, 240),
        ({"equal_compute": True}, 2000, 80),  # a larger network has fewer
        ({"equal_compute": True}, 10**6, 1),
    ],
)
def test_equal_compute_trains_smaller_networks_longer(settings, flops: int, epochs: int):
    training = TrainingConfig(scratch_epochs=160, **settings)
    assert training.epochs_from_scratch(flops, 1000) == epochs


def test_from_scratch_a_network_has_as_many_epochs_as_a_fine_tuned_one_in_all():
    training = TrainingConfig(epochs=7, fine_tune_epochs=5)
    assert training.num_scratch_epochs == 12
    assert dataclasses.replace(training, epochs=1).num_scratch_epochs == 6
    assert dataclasses.replace(training, scratch_epochs=3).num_scratch_epochs == 3
    assert from_mapping(TrainingConfig, {"scratch_epochs": None}).num_scratch_epochs == 320


def test_every_trial_and_every_repetition_has_seeds_of_its_own():
    config = SearchConfig(seed=3)
    pairs = [(n, repeat) for n in (*range(50), *range(4990, 5020)) for repeat in range(5)]
    pairs += [(MOST_TRIALS - 1, 0), (MOST_TRIALS - 1, 1)]
    taken = [config.seed_of(*pair) for pair in pairs]
    taken += [config.fine_tuning_seed_of(*pair) for pair in pairs]
    assert len(set(taken)) == 2 * len(pairs)
    assert all(float(seed) == seed for seed in taken)
    assert config.seed_of(4, 2) == SearchConfig(seed=5).seed_of(4)


def test_there_are_no_more_trials_than_seeds():
    with pytest.raises(ConfigError, match="trials must be below 1,048,576, got 1048576"):
        SearchConfig(trials=MOST_TRIALS)


def test_a_recipe_is_what_other_settings_are_laid_over():
    config = from_mapping(SearchConfig, {"training": {"recipe": "copycat", "epochs": 5}})
    assert config.training == TrainingConfig(**{**TrainingConfig.RECIPES["copycat"], "epochs": 5})
    assert from_mapping(SearchConfig, dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig(criterion=("taylor, fisher",), granularity=("branch+filter",)),
        FamilyConfig("p.json", kinds=("copycat,uniform",)),
        CorrelationConfig(criterion=("taylor,fisher",)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_nothing_that_follows_from_other_settings_stays_behind(config: Any):
    """A field holds what was given; what is stored says all of it, and means the same."""
    data, training = DataConfig("cifar10"), TrainingConfig(batch_size=8)
    changed = dataclasses.replace(config, data=data, training=training)
    assert "cifar10" in changed.study_name
    again = from_mapping(
        type(config), json.loads(json.dumps(dataclasses.asdict(changed.resolved())))
    )
    assert again == changed.resolved() == again.resolved()
    assert again.directory == changed.directory


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TrainingConfig(distill_weight=0.5), "distill_weight"),
        (lambda: TrainingConfig(distill_temperature=2.0), "distill_temperature"),
        (lambda: TrainingConfig(drop_at=(0.5,)), "drop_at"),
        (lambda: TrainingConfig(schedule="cosine", drop_by=2.0), "drop_by"),
        (
            lambda: TrainingConfig(optimizer="adamw", learning_rate=1e-3, nesterov=False),
            "nesterov",
        ),
        (lambda: TrainingConfig(crop_area=0.5), "crop_area"),
        (
            lambda: TrainingConfig(augment="trivialaugment", augment_magnitude=3),
            "augment_magnitude",
        ),
        (lambda: FamilyConfig("p.json", training=TrainingConfig(distill=True)), "distill"),
        (lambda: CorrelationConfig(training=TrainingConfig(distill=True)), "distill"),
        (
            lambda: CorrelationConfig(training=TrainingConfig(fine_tune_warmup_epochs=1)),
            "fine_tune_warmup_epochs",
        ),
        (
            lambda: SearchConfig(
                equal_compute_pairs=False, training=TrainingConfig(compute_limit=3.0)
            ),
            "compute_limit",
        ),
        (lambda: FamilyConfig("p.json", training=TrainingConfig(epochs=3)), "epochs"),
        (
            lambda: FamilyConfig("p.json", training=TrainingConfig(fine_tune_epochs=3)),
            "fine_tune_epochs",
        ),
        (lambda: FamilyConfig("p.json", training=TrainingConfig(compute_limit=3)), "compute_limit"),
        (lambda: CorrelationConfig(training=TrainingConfig(scratch_epochs=3)), "scratch_epochs"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(make: Callable[[], object], name: str):
    with pytest.raises(ConfigError, match=f"^{name} has no effect .*: leave it out$") as error:
        make()
    assert error.value.field == name


def test_a_wrong_type_is_refused_from_python_too_in_one_line():
    with pytest.raises(ConfigError, match=r"^trials must be a whole number, got '8'$"):
        SearchConfig(trials="8")
    with pytest.raises(ConfigError, match=r"^batch_size must be at least 1, got 0$"):
        TrainingConfig(1, 1, 1, 0)
    with pytest.raises(ConfigError, match=r"^data must be a DataConfig, got 'digits'$"):
        SearchConfig(data="digits")


@pytest.mark.parametrize(
    "bound", ["weight_bytes=1MB", "peak_activation_bytes=50%", "channels=50%", "channels=500"]
)
def test_whatever_has_a_closed_form_can_be_bounded(bound: str):
    assert SearchConfig(budget=(bound,)).budget == (bound,)


def test_fine_tuning_is_as_training_unless_told():
    plain = TrainingConfig()
    assert plain.for_fine_tuning() == plain
    told = TrainingConfig(
        fine_tune_epochs=20,
        fine_tune_learning_rate=0.01,
        fine_tune_schedule="constant",
        schedule="step",
        drop_at=(0.5,),
        warmup_epochs=10,
        fine_tune_warmup_epochs=0,
        batch_size=3,
    )
    assert told.for_fine_tuning() == TrainingConfig(
        epochs=20, fine_tune_epochs=20, learning_rate=0.01, schedule="constant", batch_size=3
    )
    warm = TrainingConfig(epochs=3, fine_tune_epochs=30, fine_tune_warmup_epochs=5)
    assert (warm.warmup_epochs, warm.for_fine_tuning().warmup_epochs) == (0, 5)


def test_a_record_has_the_settings_that_have_an_effect():
    def recorded(**settings: Any) -> dict[str, Any]:
        plain = TrainingConfig().params()
        params = TrainingConfig(**settings).params(without=("epochs",))
        return {name: value for name, value in params.items() if plain.get(name) != value}

    assert recorded() == {}
    assert recorded(schedule="step", drop_at=(0.25, 0.5)) == {
        "schedule": "step",
        "drop_at": "0.25,0.5",
        "drop_by": 10.0,
    }
    adamw = TrainingConfig(optimizer="adamw", learning_rate=1e-3, distill=True).params()
    assert "nesterov" not in adamw
    assert (adamw["distill"], adamw["distill_weight"]) == (True, 0.9)


def test_training_from_scratch_is_as_training_unless_told():
    plain = TrainingConfig(warmup_epochs=2, schedule="cosine")
    assert dataclasses.replace(plain.for_scratch(), epochs=160, fine_tune_epochs=160) == plain
    told = TrainingConfig(
        scratch_epochs=9, scratch_learning_rate=0.3, fine_tune_schedule="constant"
    )
    scratch = told.for_scratch()
    assert (scratch.epochs, scratch.learning_rate, scratch.schedule) == (9, 0.3, "rni")


def test_copycat_networks_are_fine_tuned_at_the_lowest_rate_of_training():
    training = TrainingConfig(**TrainingConfig.RECIPES["copycat"])
    lowest = learning_rates(training, training.epochs, 1)[-1]
    assert set(learning_rates(training.for_fine_tuning(), 200, 1)) == {8e-4}
    assert lowest == pytest.approx(8e-4, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (StudyConfig, {"sampler": "cma"}, "sampler must be one of tpe, nsga2, random, got 'cma'"),
        (StudyConfig, {"storage": "study.db"}, "storage must be a URL .*, got 'study.db'"),
        (StudyConfig, {"by_products": -1}, "by_products must be from 0 to 1000, got -1"),
        (StudyConfig, {"tempered_trials": 1001}, "tempered_trials must be from 0 to 1000"),
        (ResourcesConfig, {"cpus_per_trial": 0}, "cpus_per_trial must be at least 1, got 0"),
        (ResourcesConfig, {"gpus_per_trial": -0.5}, "gpus_per_trial must be from 0 to 1024"),
        (ResourcesConfig, {"gpus_per_trial": float("nan")}, "gpus_per_trial must be from 0"),
        (ResourcesConfig, {"gpus_per_trial": 1.5}, "must be a share .* or a whole number, got 1.5"),
        (ResourcesConfig, {"max_train_images": 0}, "max_train_images must be at least 1, got 0"),
        (ResourcesConfig, {"time_budget": "2"}, "time_budget must be a period .*, got '2'"),
        (ResourcesConfig, {"time_budget": "0s"}, "time_budget must be a period such as 90s"),
        (ResourcesConfig, {"checkpoint_every": ""}, "checkpoint_every must be a period such as"),
        (ResourcesConfig, {"checkpoint_every": "2"}, "checkpoint_every must be a period such as"),
        (ResourcesConfig, {"trial_timeout": "-3min"}, "trial_timeout must be a period such as"),
    ],
)
def test_of_study_and_resources_bad_settings_are_refused(table, settings, message: str):
    with pytest.raises(ConfigError, match=message):
        table(**settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("90s", 90), ("1.5min", 90), ("30min", 1800), ("2h", 7200), ("1d", 86400)],
)
def test_periods_are_told_in_seconds(text: str, expected: float | None):
    resources = ResourcesConfig(time_budget=text, trial_timeout=text)
    assert (resources.budget_seconds, resources.timeout_seconds) == (expected, expected)


def test_a_record_has_what_iterative_pruning_goes_by():
    recorded = IterativeConfig(units=3, learning_rate=0.5).params()
    assert recorded["iterative_units"] == 3
    assert recorded["iterative_learning_rate"] == 0.5
    assert "iterative_epochs" not in recorded  # as none was set


def test_fine_tuning_has_the_epochs_that_pruning_leaves():
    training = TrainingConfig(fine_tune_epochs=9, warmup_epochs=3, fine_tune_learning_rate=0.02)
    rest = training.for_fine_tuning(7)
    assert (rest.epochs, rest.warmup_epochs, rest.learning_rate) == (2, 1, 0.02)
    assert training.for_fine_tuning() == training.for_fine_tuning(0)
    pruning = dataclasses.replace(training, ema_decay=0.9).for_iterative_pruning(4, None)
    assert (pruning.epochs, pruning.ema_decay, pruning.warmup_epochs) == (4, 0.0, 0)
    assert list(learning_rates(pruning, 4, 2)) == pytest.approx([0.01] * 8)
    assert training.for_iterative_pruning(4, 0.5).learning_rate == 0.5
