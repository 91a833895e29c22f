"""Agreement of criteria with the oracle: the numbers, the study, the command and its record."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from samples import NUM_IMAGES, Completed, espalier

from mlflow_server import MemoryRecorder, schema
from pruning import criteria, trace
from search.config.correlation_config import CorrelationConfig, candidates
from search.config.data_config import DataConfig
from search.config.methods import METHODS, Method
from search.config.training_config import TrainingConfig
from search.results.correlation import (
    Agreement,
    Correlation,
    agreement,
    correlation,
    ranked,
    unit_scores,
)
from search.results.correlation_report import CorrelationResults, content, results_of
from search.scheduling.compute_budget import ComputeBudget
from search.studies import correlation_study, session
from search.training.trainer import EpochReport, Trainer

# ---- coefficients


def coefficients(found: Correlation) -> tuple[float | None, float | None, float | None]:
    return found.pearson, found.spearman, found.kendall


@pytest.mark.parametrize(
    ("scores", "oracle", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], (1, 1, 1)),
        ([4, 3, 2, 1], [1, 2, 3, 4], (-1, -1, -1)),
        ([0, 1, 4], [0, 1, 2], (4 / math.sqrt(52 / 3), 1, 1)),
        # ranks 1.5, 1.5, 3 against 1, 2, 3; two of three pairs agree, one is tied
        ([1, 1, 2], [1, 2, 3], (math.sqrt(3) / 2, math.sqrt(3) / 2, 2 / math.sqrt(6))),
        ([1e-20, 2e-20, 3e-20], [1e-18, 2e-18, 3e-18], (1, 1, 1)),
    ],
)
def test_closed_forms(scores: Sequence[float], oracle: Sequence[float], expected: Sequence[float]):
    assert coefficients(correlation(scores, oracle)) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("scores", "oracle"), [([1, 2], [1, 2]), ([], []), ([3, 3, 3], [1, 2, 3]), ([1, 2, 3], [0] * 3)]
)
def test_two_units_or_constant_scores_do_not_correlate(
    scores: Sequence[float], oracle: Sequence[float]
):
    found = correlation(scores, oracle)
    assert coefficients(found) == (None, None, None)
    assert not found.is_defined


def test_nearly_constant_scores_warn_of_nothing():
    found = correlation([1, 1, 1 + 2e-16], [1, 2, 3])
    assert found.spearman == pytest.approx(math.sqrt(3) / 2)


@pytest.mark.parametrize(("bad", "rank"), [(math.nan, None), (math.inf, 1.0), (-math.inf, -0.2)])
def test_scores_that_are_no_numbers_are_told_in_json_that_all_can_read(
    bad: float, rank: float | None
) -> None:
    scores, oracle = {"conv": np.array([1.0, 2, 3, bad])}, {"conv": np.array([1.0, 2, 3, 4])}
    found = agreement("taylor", scores, oracle)
    assert found.all_layers.pearson is None
    assert found.all_layers.spearman == (None if rank is None else pytest.approx(rank))
    study = CorrelationResults((found,), 4, 10, 0.5, ())
    stored = content(study, CorrelationConfig(), {"taylor": scores}, oracle)
    text = json.dumps(stored, allow_nan=False)
    assert json.loads(text)["criteria"]["taylor"]["scores"] == {"conv": [1, 2, 3, None]}
    assert results_of(json.loads(text)).agreements == (found,)


def test_a_layer_counts_once_and_only_if_it_correlates():
    oracle = {"a": [1, 2, 3], "b": [1, 2, 3, 4, 5], "small": [7, 8], "same": [1, 2, 3]}
    scores = {"a": [1, 2, 3], "b": [4, 5, 6, 7, 9], "small": [8, 7], "same": [2, 2, 2]}
    scores["a"].reverse()
    arrays = [{n: np.array(v, float) for n, v in part.items()} for part in (scores, oracle)]
    found = agreement("c", *arrays)
    assert (found.per_layer.spearman, found.per_layer.kendall) == pytest.approx((0, 0))
    assert found.num_left_out == 2
    together = correlation(*(np.concatenate(list(part.values())) for part in arrays))
    assert found.all_layers == together
    assert together.is_defined
    assert set(found.metrics) == {
        f"{name}_{where}"
        for name in ("pearson", "spearman", "kendall")
        for where in ("per_layer", "all")
    }


def test_what_is_undefined_is_no_metric_and_ranked_last():
    nothing = Agreement("nothing", {}, Correlation())
    some = [Agreement(str(v), {}, Correlation(0.0, v, 0.0)) for v in (-0.5, 0.9)]
    assert nothing.metrics == {}
    assert nothing.per_layer == Correlation()
    assert [found.criterion for found in ranked([nothing, *some])] == ["0.9", "-0.5", "nothing"]


def test_channels_of_a_unit_have_one_score():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.GroupNorm(3, 6), torch.nn.Conv2d(6, 2, 3)
    )
    graph = trace(network, torch.zeros(1, 1, 8, 8))
    (group,) = graph.prunable
    assert (group.width, group.num_units) == (6, 3)
    channels = torch.tensor([5.0, 7.0, 9.0])[torch.from_numpy(group.unit_of_channel).long()]
    found = unit_scores({group.name: channels}, graph, [group.name])
    assert found[group.name].tolist() == [5, 7, 9]


# ---- settings


def test_by_default_each_criterion_for_trained_networks_is_asked_once():
    found = [type(METHODS[name].criterion({})) for name in candidates()]
    assert found.count(criteria.BatchNormScale) == 1
    assert found.count(criteria.WeightMagnitude) == 2
    assert {criteria.Taylor, criteria.TaylorSecondOrder, criteria.Obd, criteria.Fisher} <= {*found}
    assert not {criteria.Oracle, criteria.Snip, criteria.SigmoidScale} & {*found}


def test_every_setting_has_a_flag(asked: list[CorrelationConfig]):
    flags = "--model=resnet20 --data=cifar10 --data-root=elsewhere --download --image-size=24 "
    flags += "--flip --limit-train=100 --validation-fraction=0.25 --epochs=3 --batch-size=6 "
    flags += "--learning-rate=0.7 --weight-decay=0 --learning-rate-schedule=copycat --no-nesterov "
    flags += "--criterion=taylor,obd --criterion=fisher "
    flags += (
        "--scoring-batches=2 --prune-residual --no-exact --seed=11 --device=cpu --name=n --runs=r "
    )
    espalier("correlate", *flags.split(), "--mlflow-url=http://127.0.0.1:5000")
    assert asked == [
        CorrelationConfig(
            model="resnet20",
            data=DataConfig("cifar10", "elsewhere", True, 24, True, 100, 0.25),
            training=TrainingConfig(
                epochs=3,
                batch_size=6,
                learning_rate=0.7,
                weight_decay=0,
                schedule="copycat",
                nesterov=False,
            ),
            criterion=("taylor,obd", "fisher"),
            scoring_batches=2,
            prune_residual=True,
            exact=False,
            seed=11,
            device="cpu",
            name="n",
            runs="r",
            mlflow_url="http://127.0.0.1:5000",
        )
    ]


def test_a_file_says_what_flags_do_and_flags_go_over_it(
    asked: list[CorrelationConfig], tmp_path: Path
):
    file = tmp_path / "correlate.toml"
    file.write_text('criterion = ["taylor"]\nscoring_batches = 2\n[training]\nepochs = 3\n')
    espalier("correlate", f"--config={file}", "--scoring-batches=4")
    espalier("correlate", "--criterion=taylor", "--scoring-batches=4", "--epochs=3")
    assert asked[0] == asked[1] != CorrelationConfig()
    file.write_text("criteria = 3\n")
    completed = espalier("correlate", f"--config={file}")
    assert completed.status == 2
    assert "unknown key 'criteria': did you mean criterion? (docs/" in completed.err


def test_without_flags_the_defaults_are_asked_for(asked: list[CorrelationConfig]):
    espalier("correlate")
    assert asked == [CorrelationConfig()]
    assert asked[0].study_name == "digits-vgg-digits-correlation"


# ---- the study

FLAGS = ("--model=samples:small_network", f"--limit-train={NUM_IMAGES}", "--epochs=1")
FLAGS += ("--batch-size=32", "--scoring-batches=2", "--device=cpu", "--name=study", "--runs=runs")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryRecorder:
    recorder = MemoryRecorder("study")
    monkeypatch.setattr(session, "run_recorder", lambda *_: recorder)
    return recorder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: MemoryRecorder) -> Path:
    """The working directory of a test, in which nothing is sent to MLflow."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def correlate(*flags: str) -> Completed:
    return espalier("correlate", *FLAGS, *flags)


def stored(here: Path) -> dict:
    return json.loads((here / "runs" / "study" / "correlation.json").read_text())


def test_a_study_prints_stores_and_records_its_table(
    here: Path, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    completed = correlate()
    assert (completed.status, completed.err) == (0, "")
    content = stored(here)
    assert set(content["criteria"]) == {*candidates()}
    assert content["num_units"] == 16
    assert content["num_images"] == 64

    lines = completed.out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split(" ")[0] in METHODS}
    shown = [
        [content["criteria"][name][part][c] for part in ("per_layer", "all_layers")]
        for name in rows
        for c in ("pearson", "spearman", "kendall")
    ]
    printed = [[row[i], row[i + 3]] for row in rows.values() for i in range(3)]
    assert printed == [[f"{value:.3f}" for value in pair] for pair in shown]
    assert "…" not in completed.out
    ranks = [content["criteria"][name]["all_layers"]["spearman"] for name in rows]
    assert ranks == sorted(ranks, reverse=True)
    assert "16 units, 64 training images" in completed.out

    parent = memory.read("correlation")
    assert (parent.kind, parent.status) == ("correlation", "finished")
    files = ("correlation.json", "correlation.png", "correlation.svg", "report.html")
    assert parent.files == files
    assert parent.params[schema.PARAM_SCORING_BATCHES] == "2"
    base = memory.read("architecture/base")
    assert (base.status, len(base.metrics[schema.METRIC_TRAIN_LOSS])) == ("finished", 1)
    for name, found in content["criteria"].items():
        child = memory.read(f"criterion/{name}")
        assert (child.kind, child.parent, child.status) == ("criterion", "correlation", "finished")
        assert child.params == {schema.PARAM_CRITERION: name}
        expected = {f"{c}_per_layer": value for c, value in found["per_layer"].items()}
        expected |= {f"{c}_all": value for c, value in found["all_layers"].items()}
        expected["layers_left_out"] = 0
        assert {metric: curve[-1][1] for metric, curve in child.metrics.items()} == expected


def test_a_study_of_a_regression_judges_by_its_loss_and_names_its_score(
    here: Path, memory: MemoryRecorder
):
    own = ("--model=samples:small_network", "--model-arg=num_classes=1", "--task=regression")
    flags = ("--data=data_of_users:brightness", "--epochs=1", *FLAGS[-5:])
    completed = espalier("correlate", *own, *flags)
    assert (completed.status, completed.err) == (0, "")
    content = stored(here)
    assert content["num_units"] == 16
    by_gradients_curvature_and_weights = {"taylor", "obd", "magnitude-l2"}
    assert by_gradients_curvature_and_weights < {*content["criteria"]}
    for found in content["criteria"].values():
        assert np.isfinite([v for values in found["scores"].values() for v in values]).all()
    assert len(np.unique(np.concatenate([*content["oracle"].values()]))) > 10
    assert "validation R² " in completed.out
    assert "accura" not in completed.out.lower()
    assert "validation_r2" in memory.read("correlation").metrics
    assert memory.read("architecture/base").status == "finished"


def test_stored_scores_give_the_stored_coefficients(here: Path):
    assert correlate("--criterion=obd,taylor").status == 0
    content = stored(here)
    oracle = content["oracle"]
    assert [len(values) for values in oracle.values()] == [8, 8]
    for name, found in content["criteria"].items():
        arrays = [{n: np.array(v) for n, v in part.items()} for part in (found["scores"], oracle)]
        again = agreement(name, *arrays)
        assert [*found["per_layer"].values()] == pytest.approx(coefficients(again.per_layer))
        assert [*found["all_layers"].values()] == pytest.approx(coefficients(again.all_layers))


def test_signed_estimates_are_squared(here: Path, monkeypatch: pytest.MonkeyPatch):
    signed: list[torch.Tensor] = []
    of = criteria.Obd.of

    def spied(self: criteria.Obd, gradient: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        signed.append(of(self, gradient, curvature))
        return signed[-1]

    monkeypatch.setattr(criteria.Obd, "of", spied)
    monkeypatch.setattr("search.studies.correlation_study._try_out", lambda *_: None)
    assert correlate("--criterion=obd").status == 0
    mean = sum(signed) / len(signed)
    assert (mean < 0).any()
    scores = [v for values in stored(here)["criteria"]["obd"]["scores"].values() for v in values]
    assert scores == pytest.approx((mean.double() ** 2).tolist())


def test_criteria_and_oracle_look_at_the_same_trained_network_and_images(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(METHODS, "exact", Method("exact", lambda _: criteria.Oracle()))
    assert correlate("--criterion=exact,random").status == 0
    exact = stored(here)["criteria"]["exact"]
    assert exact["scores"] == stored(here)["oracle"]
    assert [*exact["per_layer"].values()] == pytest.approx([1, 1, 1])


def test_a_criterion_that_needs_sigmoid_batchnorm_gets_it(here: Path):
    assert correlate("--criterion=rni,slimming").status == 0
    found = stored(here)["criteria"]
    assert found["rni"]["scores"] == found["slimming"]["scores"]
    assert all(0 < v < 1 for values in found["rni"]["scores"].values() for v in values)


def test_the_convolutions_of_a_stream_can_be_judged_one_by_one(here: Path):
    flags = ("--model=samples:small_residual", "--prune-residual", "--gates-per=convolution")
    completed = correlate(*flags, "--criterion=taylor,taylor-before-batchnorm,magnitude-l2")
    assert completed.status == 0
    found = stored(here)
    units = sum(map(len, found["oracle"].values()))
    assert found["num_units"] == units
    assert f"{units} units in 5 layers" in completed.out
    inner, stream = ["blocks.0.first", "blocks.1.first"], ["blocks.0.second", "blocks.1.second"]
    assert {*found["oracle"]} == {"stem.0", *inner, *stream}
    scores = {name: own["scores"] for name, own in found["criteria"].items()}
    for name in stream:  # their gates are on their own outputs either way
        assert scores["taylor"][name] == scores["taylor-before-batchnorm"][name]
    for name in inner:
        assert scores["taylor"][name] != scores["taylor-before-batchnorm"][name]


def test_constant_scores_are_a_dash_and_no_metric(
    here: Path, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(criteria.Taylor, "of", lambda self, moments: 0 * moments.sample_sums)
    completed = correlate("--criterion=taylor")
    assert completed.status == 0
    (row,) = (line.split() for line in completed.out.splitlines() if line.startswith("taylor "))
    assert row[1:] == ["–"] * 6
    assert "left out of the means (fewer than 3 units, or constant scores): taylor 2" in (
        completed.out
    )
    assert {*memory.read("criterion/taylor").metrics} == {schema.METRIC_LAYERS_LEFT_OUT}


@pytest.mark.parametrize("is_terminal", [False, True])
def test_people_see_every_stage(here: Path, *, is_terminal: bool):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=100)
    config = CorrelationConfig(
        model="samples:small_network",
        data=DataConfig(limit_train=NUM_IMAGES),
        training=TrainingConfig(epochs=1),
        criterion=("taylor",),
        scoring_batches=1,
        device="cpu",
    )
    study = correlation_study.run(config, console=console)
    assert study.num_images == 64
    if is_terminal:  # whose table is drawn anew four times a second
        assert "the network itself" in screen.getvalue()
        assert "1 done" in screen.getvalue()
    else:
        for stage in ("training", "criteria", "oracle"):
            assert f"base: {stage}" in screen.getvalue()


def test_an_interruption_ends_in_one_line(
    here: Path, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    """And what was trained is not trained again."""
    epochs, run_epoch = [], Trainer.run_epoch

    def counted(self: Trainer) -> EpochReport:
        epochs.append(report := run_epoch(self))
        return report

    def scores(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.studies.correlation_study._try_out", lambda *_: None)
    monkeypatch.setattr(Trainer, "run_epoch", counted)
    with monkeypatch.context() as patch:
        patch.setattr(correlation_study, "_scores", scores)
        completed = correlate()
    assert completed.status == 130
    assert completed.err.strip() == (
        "Stopped. The training is kept up to its last checkpoint: the same command goes on from "
        "there."
    )
    assert memory.read("correlation").status == "killed"
    assert correlate().status == 0
    assert len(epochs) == 1
    assert memory.read("correlation").status == "finished"
    assert memory.read("architecture/base").status == "finished"


def test_a_study_is_listed_resumed_and_watched_as_a_search_is(
    here: Path, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    def row() -> list[str]:
        _, line = espalier("list", "--runs=runs").out.splitlines()
        return line.split()

    def scores(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(correlation_study, "_scores", scores)
        assert correlate("--criterion=obd,taylor").status == 130
    assert row()[:4] == ["study", "correlation", "stopped", "–"]
    resumed = espalier("resume", "study", "--runs=runs", "--trust=samples")
    assert resumed.status == 0, resumed.err
    assert row()[:5] == ["study", "correlation", "finished", "–", "1"]
    table = resumed.out[resumed.out.index("Correlation with") :]
    assert table in espalier("watch", "study", "--runs=runs").out


def test_a_training_that_the_budget_cannot_afford_is_refused(here: Path, memory: MemoryRecorder):
    completed = correlate("--max-train-images=10")
    assert (completed.status, len(completed.err.splitlines())) == (2, 1)
    assert "would not end within the time or images that it may use" in completed.err
    assert memory.read("correlation").status == "failed"
    assert memory.read("architecture/base").status == "killed"
    assert correlate("--max-train-images=10000", "--criterion=random").status == 2  # other criteria
    assert correlate("--max-train-images=10000").status == 0


def test_a_time_budget_ends_the_oracle_too_and_the_training_is_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("search.studies.correlation_study._try_out", lambda *_: None)
    score, affords = criteria.Oracle.score, ComputeBudget.affords
    begun: list[bool] = []

    def scoring(*arguments: Any) -> Any:
        begun.append(True)
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(criteria.Oracle, "score", scoring)
        patch.setattr(
            ComputeBudget, "affords", lambda self, images: not begun and affords(self, images)
        )
        completed = correlate("--criterion=taylor")
    assert (completed.status, bool(begun)) == (2, True)
    assert "would not end within the time or images that it may use" in completed.err
    monkeypatch.setattr(Trainer, "run_epoch", None)  # which nobody needs any more
    assert correlate("--criterion=taylor").status == 0


def test_divergence_fails_the_run_and_says_why(here: Path, memory: MemoryRecorder):
    completed = correlate("--learning-rate=1e30")
    assert completed.status == 2
    (line,) = completed.err.splitlines()
    assert "training diverged" in line
    assert memory.read("correlation").status == "failed"
    assert "training diverged" in memory.read("correlation").tags[schema.TAG_FAILURE]


def test_the_same_study_can_be_repeated_but_not_replaced(here: Path):
    assert correlate("--criterion=random").status == 0
    before = stored(here)
    assert correlate("--criterion=random", "--data-root=elsewhere").status == 0
    assert stored(here)["criteria"] == before["criteria"]
    completed = correlate("--criterion=random", "--epochs=2", "--seed=1")
    assert completed.status == 2
    line = " ".join(completed.err.split())
    assert (
        "holds another correlation study, which differs in training.epochs (it has 1, now 2)"
        in line
    )
    assert "seed (it has 0, now 1): choose another --name" in line


BAD_SETTINGS = {
    "unknown criterion": (["--criterion=tayl"], "criterion must be one of rni, slimming"),
    "the oracle itself": (["--criterion=taylor,oracle"], "criterion must not be oracle"),
    "trained gates": (["--criterion=scaling-factors"], "criterion must not be scaling-factors"),
    "a fixed oracle": (["--criterion=oracle-fixed"], "criterion must not be oracle-fixed"),
    "streams left out": (["--gates-per=convolution"], "gates_per has no effect without prune_res"),
    "no part of streams": (
        ["--gates-per=convolution", "--prune-residual", "--criterion=batchnorm-scale"],
        "batchnorm-scale judges channels of a stream as a whole: leave it out, or --gates-per",
    ),
    "out of range": (["--scoring-batches=0"], "scoring_batches must be at least 1, got 0"),
    "bad name": (["--name=a/b"], "name must be letters, digits and . _ + - only"),
    "unknown model": (["--model=resnet2"], "no network is called 'resnet2'"),
    "unknown data": (["--data=cifar"], "no data set is called 'cifar'"),
    "unused setting": (["--fine-tune-epochs=3"], "No such option"),
    "a folder of something else": (["--name=full"], "runs/full exists but holds no correlation"),
    "a file in the way": (["--name=file"], "runs/file exists but holds no correlation"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_input_gets_one_line_and_nothing_is_written(
    here: Path, case: str, memory: MemoryRecorder
):
    (here / "runs" / "full").mkdir(parents=True)
    (here / "runs" / "full" / "search.json").write_text("{}")
    (here / "runs" / "file").write_text("precious")
    before = sorted(here.rglob("*"))
    arguments, expected = BAD_SETTINGS[case]
    completed = correlate(*arguments)
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    assert expected in line
    assert sorted(here.rglob("*")) == before
    assert memory.keys() == ()
