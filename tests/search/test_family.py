"""Families on the command line: the ladder, its training, its curves and its record."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.container import ErrorbarContainer
from rich.console import Console
from samples import (
    ABSOLUTE_ERROR,
    MEAN_IOU,
    NUM_IMAGES,
    Completed,
    ProbabilityError,
    base_outcome,
    espalier,
    outcome,
    run_in_process,
    stored_outcome,
)

import copycat
from copycat import WidthProfile
from mlflow_server import MemoryRecorder, schema
from pruning.cost import Cost
from pruning.errors import ArchitectureError, BudgetError, ConfigError
from pruning.fvcore_count import measure_cost
from pruning.tracing import trace
from search.commands.result_summary import print_family
from search.config.family_config import FamilyConfig, kind_and_number
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.models import resolve
from search.results import figures
from search.results.family_results import FamilyRun, FamilyStudy, study_table
from search.results.report import Results
from search.scheduling.ray_executor import Perform
from search.scheduling.share import Share
from search.studies import family_study, session
from search.studies.family_ladder import stored_subject
from search.tasks import registry as tasks
from search.tasks.score import ACCURACY, Score
from search.trials.job_context import JobContext, Report
from search.trials.jobs import EpochRecord, FromScratchJob, JobSource, Observer, Outcome
from search.trials.preflight import Preflight
from search.trials.trial import perform

WIDTHS = (8, 8, 16, 16, 8, 8)
"""Of the pruned network: digits-vgg is widest in the middle."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def search_folder(here: Path, preflight: Preflight) -> Path:
    """A finished search with one fine-tuned network, as espalier search leaves it."""
    config = SearchConfig(name="found", runs="espalier-runs")
    widths = dict(zip(preflight.groups, WIDTHS, strict=True))
    tuned = stored_outcome(config, preflight, 0, widths, 0.5)
    stored = copycat.read(config.directory / tuned.path)
    provenance = {
        "data": "digits", "origin": "fine-tuned", "trial": 0, "rung": None, "alpha": 1.0,
        "seed": 4, "validation_score": 0.5, "test_score": 0.5,
    }  # fmt: skip
    model = copycat.load(config.directory / tuned.path)
    architecture = dataclasses.replace(stored, provenance=provenance)
    copycat.save(config.directory / tuned.path, architecture, model)
    results = Results(preflight.base, "flops=10%", 359, (tuned,), (tuned,), (), {})
    (config.directory / "results.json").write_text(json.dumps(results.to_mapping()))
    return config.directory


# ---- settings


def test_kinds_are_listed_by_commas_and_checked():
    config = FamilyConfig("p.json", kinds=("copycat, tempered:0.5", "uniform", "copycat"))
    assert config.kind_names == ("copycat", "tempered:0.5", "uniform")
    assert kind_and_number("tempered:0.5") == ("tempered", 0.5)
    assert kind_and_number("wrn") == ("wrn", None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("copycats",)}, "kinds must be some of copycat, .*, got 'copycats'"),
        ({"kinds": ()}, "kinds must be at least one name"),
        ({"kinds": ("tempered",)}, "tempered takes its ρ as in tempered:0.5"),
        ({"kinds": ("uniform:1",)}, "other kinds none: 'uniform:1'"),
        ({"kinds": ("tempered:0..5",)}, r"ρ must be a number, got 'tempered:0\.\.5'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"divisor": 0}, "divisor must be at least 1, got 0"),
        ({"device": "tpu"}, "device must be one of"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        FamilyConfig("p.json", **settings)


def test_resources_from_python_reach_the_workers():
    resources = ResourcesConfig(cpus_per_trial=2, gpus_per_trial=0.5, max_train_images=5000)
    config = FamilyConfig(source="profile.json", budgets=("params=1k",), resources=resources)
    assert config.as_search().resources == resources


def test_a_malformed_budget_is_refused_at_once():
    with pytest.raises(BudgetError, match="falls"):
        FamilyConfig("p.json", budgets=("params=9k:3k:1k",))


def test_every_range_and_every_budget_is_rungs():
    config = FamilyConfig("p.json", budgets=("params=200k:2M:100k", "flops=25%"))
    ladder = config.ladder()
    assert [str(rung) for rung in (ladder[0], ladder[18], ladder[19])] == [
        "params=200k", "params=2M", "flops=25%",
    ]  # fmt: skip


# ---- points of a trajectory


@pytest.fixture
def trajectory(search_folder: Path, preflight: Preflight) -> list[dict[str, object]]:
    """The network of the search as if it had been pruned iteratively, in three removals."""
    first, rows = dict(zip(preflight.groups, WIDTHS, strict=True)), []
    for step in range(3):
        widths = {name: width - step for name, width in first.items()}
        cost = preflight.graph.cost(widths)
        rows.append(
            {"step": step + 1, "widths": widths, "flops": cost.flops, "params": cost.params}
        )
    folder = search_folder / "architectures" / "fine-tuned-0"
    (folder / "trajectory.json").write_text(json.dumps(rows))
    return rows


def test_a_family_starts_from_any_point_of_a_trajectory(trajectory, preflight: Preflight):
    """By its number or by a budget; at the budget that it just fills its shape comes out."""
    for row, point in zip(trajectory, ("1", "2", f"flops={trajectory[2]['flops']}"), strict=True):
        source = f"found/fine-tuned-0@{point}"
        (member,) = rows(source, f"--budgets=params={row['params']}", "--kinds=copycat")
        assert member["widths"] == row["widths"]
        completed = espalier("inspect", source, "--json")
        assert json.loads(completed.out)["widths"] == row["widths"]
    config = FamilyConfig("found/fine-tuned-0@flops=30%")
    assert config.study_name == "found-fine-tuned-0-flops-30-digits-family"


def test_a_folder_with_such_a_name_is_meant_first(search_folder: Path, trajectory):
    folder = search_folder / "architectures"
    shutil.copytree(folder / "fine-tuned-0", folder / "fine-tuned-0@2")
    (member,) = rows(
        "found/fine-tuned-0@2", f"--budgets=params={trajectory[0]['params']}", "--kinds=copycat"
    )
    assert member["widths"] == trajectory[0]["widths"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("found/fine-tuned-0@4", "has points 1 to 3, got @4"),
        ("found/fine-tuned-0@flops=1k", "no point of the trajectory is within flops=1k"),
        ("found/fine-tuned-0@flips=3", "bounds an unknown quantity 'flips'"),
        ("found/fine-tuned-7@1", "no architecture"),
    ],
)
def test_a_point_that_is_not_there_is_refused(trajectory, source: str, message: str):
    completed = espalier("family", source, "--budgets=params=5k")
    assert completed.status == 2
    assert message in completed.err
    assert completed.err.count("\n") == 1


def test_a_network_without_a_trajectory_has_no_points(search_folder: Path):
    completed = espalier("family", "found/fine-tuned-0@1", "--budgets=params=5k")
    assert completed.status == 2
    assert "has no trajectory (trajectory.json)" in completed.err


# ---- the ladder


def rows(*arguments: str | Path) -> list[dict[str, object]]:
    completed = espalier("family", *arguments, "--json")
    assert completed.status == 0, completed.err
    return json.loads(completed.out)


def test_members_fill_their_budgets(search_folder: Path, preflight: Preflight):
    found = rows("found/fine-tuned-0", "--budgets=params=5k:9k:2k", "--kinds=copycat,uniform")
    assert [(row["kind"], row["budget"]) for row in found] == [
        (kind, f"params={n}k") for kind in ("copycat", "uniform") for n in (5, 7, 9)
    ]
    for row in found:
        cost = preflight.graph.cost(row["widths"])
        assert (row["flops"], row["params"]) == (cost.flops, cost.params)
        assert row["params_share"] == cost.params / preflight.base.params
        limit = 1000 * int(str(row["budget"])[-2])
        assert 0.9 * limit < row["params"] <= limit
    first, last = found[0], found[2]
    assert first["parameter"] < last["parameter"]


def test_uniform_narrows_what_the_profile_narrows_and_width_everything(here: Path):
    """So that tempered:0, a shape that a search over ρ contains, is the baseline it has to beat."""
    profile = WidthProfile({"stage1.block0.conv1": 6, "stage2.block1.conv1": 12})
    (here / "profile.json").write_text(profile.to_json())
    found = rows(
        here / "profile.json", "--model=digits-resnet", "--input=1x8x8", "--budgets=flops=90%",
        "--kinds=uniform,tempered:0,width",
    )  # fmt: skip
    by_kind = {row["kind"]: row["widths"] for row in found}
    assert by_kind["uniform"] == by_kind["tempered:0"]
    assert set(by_kind["uniform"]) == set(profile.widths)
    graph = trace(
        resolve("digits-resnet", num_classes=10, in_channels=1)(), torch.zeros(1, 1, 8, 8)
    )
    assert set(by_kind["width"]) == {group.name for group in graph.prunable}


def test_a_folder_a_name_and_a_profile_are_the_same_shape(search_folder: Path, here: Path):
    profile = copycat.read(search_folder / "architectures" / "fine-tuned-0").profile
    (here / "p.json").write_text(profile.to_json())
    flags = ("--budgets=flops=5%", "--kinds=copycat")
    expected = rows("found/fine-tuned-0", *flags)
    assert rows(search_folder / "architectures" / "fine-tuned-0", *flags) == expected
    from_profile = (here / "p.json", "--model=digits-vgg", *flags)
    assert rows(*from_profile) == expected
    assert rows(*from_profile, "--input=1x8x8", "--classes=10") == expected


def test_the_table_says_what_there_is_not(search_folder: Path):
    completed = espalier(
        "family", "found/fine-tuned-0", "--budgets=params=50:50050:50k",
        "--kinds=uniform,from-scratch",
    )  # fmt: skip
    assert completed.status == 0
    assert "Note: no uniform at params=50: the budget cannot be reached" in completed.out
    table = [line.split() for line in completed.out.splitlines() if line.startswith("params=")]
    assert [row[1] for row in table] == ["uniform", "from-scratch"]
    assert not Path("espalier-runs/found-fine-tuned-0-digits-family").exists()


def test_the_pruned_shape_appears_once(search_folder: Path):
    found = rows("found/fine-tuned-0", "--budgets=params=20k:50k:10k", "--kinds=from-scratch")
    assert [row["budget"] for row in found] == ["params=20k"]


def bad(*arguments: str | Path) -> str:
    completed = espalier("family", *arguments)
    assert completed.status == 2
    (line,) = completed.err.splitlines()
    return line


def test_bad_input_is_one_line(search_folder: Path, here: Path):
    (here / "p.json").write_text('{"widths": {"x": 3}}')
    assert "for a profile give --model" in bad("p.json")
    assert "no architecture, and no profile" in bad("none.json", "--model=digits-vgg")
    assert "no channel group 'x'" in bad("p.json", "--model=digits-vgg")
    assert "--input must be sizes" in bad("p.json", "--model=digits-vgg", "--input=8xa")
    assert "needs a network with residual blocks" in bad(
        "found/fine-tuned-0", "--kinds=bottleneck", "--budgets=flops=5%"
    )
    assert "there is nothing to train" in bad("found/fine-tuned-0", "--train")
    assert "--input has no effect on a stored" in bad("found/fine-tuned-0", "--input=1x8x8")
    assert "--classes has no effect beside" in bad("p.json", "--model=digits-vgg", "--classes=3")
    stored = espalier("inspect", "found/fine-tuned-0", "--classes=3")
    assert (stored.status, stored.out) == (2, "")
    assert "--classes has no effect on a stored" in stored.err


# ---- training it


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryRecorder:
    recorder = MemoryRecorder("family")
    monkeypatch.setattr(session, "run_recorder", lambda *_: recorder)
    return recorder


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch, memory: MemoryRecorder) -> list[str]:
    """Keys of the jobs that were performed, in this process; one that is called stop stops."""
    keys: list[str] = []

    def one(
        job: FromScratchJob, context: JobContext, data: ImageData, report: Report
    ) -> tuple[Outcome, ...]:
        if (stop := Path("stop")).exists() and len(keys) == int(stop.read_text()):
            raise KeyboardInterrupt
        keys.append(job.key)
        return perform(job, context, data, report)

    @contextmanager
    def cluster(context: JobContext, data: ImageData, share: Share) -> Iterator[Perform]:
        def perform_all(source: JobSource, observer: Observer) -> None:
            run_in_process(source, context, data, observer, perform_job=one)

        yield perform_all

    monkeypatch.setattr(session, "ray_executor", SimpleNamespace(cluster=cluster))
    return keys


FLAGS = (
    "found/fine-tuned-0", "--train", "--budgets=params=3k:5k:2k", "--kinds=copycat,uniform",
    "--seeds=2", f"--limit-train={NUM_IMAGES}", "--scratch-epochs=1", "--batch-size=32",
    "--device=cpu", "--name=study",
)  # fmt: skip
STUDY = Path("espalier-runs/study")


def trained(*more: str) -> tuple[Completed, dict[str, object]]:
    completed = espalier("family", *FLAGS, *more)
    assert completed.status == 0, completed.err
    return completed, json.loads((STUDY / "family.json").read_text())


def test_networks_of_one_trial_are_told_apart_by_their_size(
    search_folder: Path, performed: list[str], memory: MemoryRecorder
):
    """Repetitions with other seeds are averaged with the network that they repeat."""
    file = search_folder / "results.json"
    content = json.loads(file.read_text())
    (tuned,) = content["everything"]
    content["everything"] += [{**tuned, "key": f"fine-tuned-0{end}"} for end in ("-t50", "-s1")]
    file.write_text(json.dumps(content))
    _, found = trained("--include=found", "--seeds=1", "--kinds=uniform", "--budgets=params=5k")
    names = ("0", "0-t50", "0-s1")
    assert performed[-3:] == [f"from-scratch-found-{name}-s0" for name in names]
    sizes = [(p["place"], p["num_runs"]) for p in found["points"] if p["kind"] == "fine-tuned"]
    assert sorted(sizes) == [("trial 0", 2), ("trial 0-t50", 1)]


def test_every_member_is_trained_with_every_seed(
    search_folder: Path, performed: list[str], memory: MemoryRecorder
):
    completed, found = trained("--include=found")
    kinds = ("copycat-params-3000", "copycat-params-5000", "uniform-params-3000")
    kinds += ("uniform-params-5000", "from-scratch-found-0")
    assert performed == ["base", *(f"{kind}-s{seed}" for kind in kinds for seed in (0, 1))]
    assert len(found["runs"]) == 11
    for run in found["runs"][1:]:
        stored = copycat.verify(STUDY / run["outcome"]["path"])
        assert stored.provenance["seed"] == run["seed"]
        assert stored.provenance["test_score"] == run["outcome"]["test_score"]
        if run["kind"] != "from-scratch":
            assert stored.provenance["budget"] == run["place"]
    files = {"family.json", "family.png", "family.svg", "report.html"}
    assert {p.name for p in STUDY.iterdir()} >= files

    parent = memory.read("family")
    assert (parent.kind, parent.status) == ("family", "finished")
    assert parent.tags[schema.TAG_BUDGET] == "params=3k:5k:2k"
    assert {Path(file).name for file in parent.files} == files
    pair = [memory.read(f"architecture/{key}") for key in ("found-fine-tuned-0", performed[-1])]
    assert pair[0].tags[schema.TAG_PROFILE] == pair[1].tags[schema.TAG_PROFILE]
    assert [run.tags[schema.TAG_ORIGIN] for run in pair] == ["fine-tuned", "from-scratch"]
    assert all(run.status == "finished" and run.parent == "family" for run in pair)
    check_base_comes_first(completed.out, found, memory)


def check_base_comes_first(out: str, found: dict[str, Any], memory: MemoryRecorder) -> None:
    """In the table and in MLflow; all others say what they gave up."""
    base = found["base_network"]
    stored = copycat.verify(STUDY / base["path"])
    assert (stored.profile, stored.provenance["epochs"]) == (WidthProfile({}), 1)
    heading, first, second = out[out.index("Test error") :].splitlines()[1:4]
    assert "against base" in heading
    assert (first.split()[0], first.split()[-2]) == ("base", "–")
    gain = 100 * (found["points"][0]["test_score"] - base["test_score"])
    worse_or_better = "worse" if gain < 0 else "better"
    assert f"{abs(gain):.1f} points {worse_or_better}" in second or "±0.0 points" in second
    for run in found["runs"]:
        name = f"{run['search']}-{run['outcome']['key']}".removeprefix("-")
        curve = memory.read(f"architecture/{name}").metrics["accuracy_against_base"]
        assert curve[-1][1] == run["outcome"]["test_score"] - base["test_score"]
    assert memory.read("architecture/base").tags[schema.TAG_ORIGIN] == "base"


def test_a_family_is_measured_as_its_task_says(
    search_folder: Path, performed: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tasks._TASKS, "errors", ProbabilityError)
    few = ("--task=errors", "--seeds=1")
    completed, found = trained(*few)
    assert len(performed) == 5
    assert found["score"] == ABSOLUTE_ERROR.to_mapping()
    assert "Test mean absolute error, mean ± deviation over runs" in completed.out
    assert "validation mean absolute error 0." in completed.out
    assert "accura" not in (completed.out + (STUDY / "events.jsonl").read_text()).lower()
    refused = espalier("family", *FLAGS, *few, "--include=found")
    assert refused.status == 2
    assert "it measured accuracy, the study measures mean absolute error" in refused.err


def test_a_stopped_study_goes_on_where_it_was(
    search_folder: Path, here: Path, performed: list[str], memory: MemoryRecorder
):
    (here / "stop").write_text("3")
    completed = espalier("family", *FLAGS)
    assert completed.status == 130
    assert "the same command goes on from there" in completed.err
    assert len(performed) == 3
    assert memory.read("family").status == "killed"
    again = STUDY / "architectures" / "copycat-params-3000-s0" / "architecture.json"
    before = again.stat().st_mtime_ns
    (here / "stop").unlink()
    performed.clear()
    _, found = trained()
    assert len(performed) == 6
    assert len(found["runs"]) == 8
    assert memory.read("family").status == "finished"
    assert again.stat().st_mtime_ns == before
    performed.clear()
    _, larger = trained("--seeds=3")  # the later flag wins: only what is new is trained
    assert [key[-1] for key in performed] == ["2"] * 4
    assert [run for run in larger["runs"] if run["seed"] < 2] == found["runs"]


def test_a_study_is_listed_resumed_and_watched_as_a_search_is(
    search_folder: Path, here: Path, performed: list[str], memory: MemoryRecorder
):
    def row() -> list[str]:
        _, first, *_ = espalier("list").out.splitlines()  # the newest first
        return first.split()

    (here / "stop").write_text("2")
    assert espalier("family", *FLAGS).status == 130
    assert row()[:5] == ["study", "family", "stopped", "–", "2"]
    watched = espalier("watch", "study")
    assert watched.status == 2
    assert "go on with espalier resume study" in watched.err
    (here / "stop").unlink()
    resumed = espalier("resume", "study", "--device=cpu")
    assert resumed.status == 0, resumed.err
    assert len(performed) == len({*performed}) == 9
    assert row()[:5] == ["study", "family", "finished", "–", "9"]
    table = resumed.out[resumed.out.index("Test error") :]
    assert table in espalier("watch", "study").out
    assert "holds a family study" in espalier("pareto", "study").err
    assert espalier("resume", "study", "--register=name").status == 2


def test_what_the_budget_cannot_afford_is_left_out_and_said(
    search_folder: Path, performed: list[str]
):
    epoch = NUM_IMAGES * 8 // 10 // 32 * 32
    completed, found = trained(f"--max-train-images={2 * epoch}")
    assert len(performed) == 2
    assert "Note: not trained, for want of time or images: copycat-params-3000-s1" in completed.out
    assert len(found["runs"]) == 1
    trained(f"--max-train-images={9 * epoch}")
    assert len(performed) == 9


def test_a_stored_network_of_another_shape_is_trained_again(
    search_folder: Path, performed: list[str]
):
    """As when the architecture that was named has been replaced since."""
    trained()
    folder, performed[:] = STUDY / "architectures", []
    shutil.rmtree(folder / "copycat-params-3000-s0")
    shutil.copytree(folder / "uniform-params-3000-s0", folder / "copycat-params-3000-s0")
    trained()
    assert performed == ["copycat-params-3000-s0"]


def test_other_settings_want_another_name(search_folder: Path, performed: list[str]):
    trained()
    line = bad(*FLAGS, "--scratch-epochs=2")
    assert "differs in training.scratch_epochs (it has 1, now 2):" in line
    shutil.copytree(search_folder / "architectures" / "fine-tuned-0", "elsewhere")
    line = bad("elsewhere", *FLAGS[1:])
    assert "differs in source (it has found/fine-tuned-0, now elsewhere):" in line
    STUDY.joinpath("family-settings.json").unlink()
    assert "holds no family study" in bad(*FLAGS)


def test_wrong_data_and_wrong_teachers_are_refused_before_anything_is_written(
    search_folder: Path, performed: list[str]
):
    assert "is for inputs of 1×8×8, but digits has 1×9×9" in bad(*FLAGS, "--image-size=9")
    assert "holds no architecture.json" in bad(*FLAGS, "--distill-from=nowhere")
    assert "holds no search" in bad(*FLAGS, "--include=none")
    assert not STUDY.exists()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[FamilyConfig]:
    """What was to be trained; nothing is."""
    configs: list[FamilyConfig] = []

    def run(config: FamilyConfig, *_: object, **__: object) -> FamilyStudy:
        configs.append(config)
        return FamilyStudy((), 1, {}, (), ())

    monkeypatch.setattr(family_study, "run", run)
    return configs


def test_the_recipe_of_a_paper_can_be_overridden(search_folder: Path, asked: list[FamilyConfig]):
    espalier("family", "found/fine-tuned-0", "--train", "--recipe=copycat", "--batch-size=64")
    (config,) = asked
    recipe = (config.training.scratch_epochs, config.training.schedule, config.training.nesterov)
    assert recipe == (200, "copycat", False)
    assert (config.training.batch_size, config.training.weight_decay) == (64, 5e-4)
    assert config.data.source == "digits"  # as the architecture says


FILE = """
budgets = ["params=5k"]
kinds = ["copycat"]
seeds = 2
[training]
recipe = "copycat"
batch_size = 32
"""


def test_a_file_says_what_flags_do_and_flags_go_over_it(
    search_folder: Path, here: Path, asked: list[FamilyConfig]
):
    (here / "family.toml").write_text(FILE)
    source, file = "found/fine-tuned-0", "--config=family.toml"
    flags = ("--recipe=copycat", "--budgets=params=5k", "--kinds=copycat", "--seeds=2")
    espalier("family", source, "--train", file)
    espalier("family", source, "--train", *flags, "--batch-size=32")
    espalier("family", source, "--train", file, "--recipe=rni", "--seeds=1")
    from_file, from_flags, both = asked
    assert from_file == from_flags
    assert (both.training.schedule, both.training.batch_size, both.seeds) == ("rni", 32, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed_s = 2", "family.toml has an unknown key 'seed_s': did you mean seed"),
        ('source = "x"', "family.toml: source is what `espalier family` is called with: leave it"),
        ('data = "digits"', "family.toml: 'data' must be a table, got 'digits'"),
        ('training = "fast"', "family.toml: 'training' must be a table, got 'fast'"),
        ("[training]\nrecipe = 3", "recipe must be the name of a recipe, got 3"),
        ("[training]\nepochs = 3", "epochs has no effect in a family study"),
    ],
)
def test_a_file_that_is_wrong_gets_one_line(
    search_folder: Path, here: Path, content: str, message: str
):
    (here / "family.toml").write_text(content)
    completed = espalier("family", "found/fine-tuned-0", "--config=family.toml")
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    assert message in line


def test_members_of_another_builder_are_trained_too(
    tmp_path: Path, preflight: Preflight, digits: ImageData
):
    """A kind may change the base network: digits-resnet, in a study of digits-vgg."""
    builder = ("search.models:digits_resnet", {"num_classes": 10, "in_channels": 1})
    job = FromScratchJob("depth-s0", "depth", {}, seed=5, budget="params=1k", builder=builder)
    training = TrainingConfig(1, 1, 1, batch_size=32, equal_compute=True)
    config = SearchConfig(name="other", runs=str(tmp_path), training=training)
    records: list[EpochRecord] = []
    (found,) = perform(job, JobContext(config, preflight, "cpu"), digits, records.extend)
    stored = copycat.verify(config.directory / found.path)
    assert stored.builder == copycat.Builder(*builder)
    assert stored.cost == Cost(found.flops, found.params) != preflight.base
    epochs = training.epochs_from_scratch(found.flops, preflight.base.flops)
    assert len(records) == stored.provenance["epochs"] == epochs


# ---- results and picture


def run_of(kind: str, place: str, seed: int, error: float, params: int = 100) -> FamilyRun:
    return FamilyRun(kind, place, seed, outcome("k", test_score=1 - error, params=params))


def test_points_are_means_with_the_deviation_of_a_sample():
    runs = (
        run_of("copycat", "b", 0, 0.5, 200),
        *(run_of("copycat", "a", s, e, 100) for s, e in enumerate((0.1, 0.2, 0.3))),
        *(run_of("fine-tuned", "trial 0", s, e, p) for s, e, p in ((0, 0.2, 50), (1, 0.4, 70))),
    )
    study = FamilyStudy(runs, 10, {}, (), ())
    assert [(p.kind, p.place, p.num_runs) for p in study.points] == [
        ("copycat", "a", 3), ("copycat", "b", 1), ("fine-tuned", "trial 0", 2),
    ]  # fmt: skip
    curves = study.curves
    assert curves["copycat"][0] == pytest.approx((100, 20, 10))
    assert curves["copycat"][1] == pytest.approx((200, 50, 0))
    assert curves["fine-tuned"] == [pytest.approx((60, 30, 100 * 0.02**0.5))]


@pytest.mark.parametrize(
    ("score", "gain", "texts"),
    [
        (ACCURACY, 0.25, ("50.00 %", "25.00 %", "25.0 points better")),
        (MEAN_IOU, 0.25, ("50.00 %", "75.00 %", "+25.0 points")),
        (ABSOLUTE_ERROR, -0.25, ("0.5", "0.75", "0.25 worse")),
    ],
)
def test_the_base_network_is_the_first_row_of_all(
    score: Score, gain: float, texts: tuple[str, ...]
):
    base = base_outcome(test_score=0.5)
    study = FamilyStudy((run_of("copycat", "a", 0, 0.25),), 10, {}, (), (), score, base)
    assert [point.score_against_base for point in study.points] == [gain]
    assert list(study.curves) == ["base", "copycat"]
    console = Console(file=io.StringIO(), width=100)
    console.print(study_table(study))
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()[1:]
    assert first.split()[0] == "base"
    assert texts[0] in first
    assert all(text in second for text in texts[1:])


@pytest.mark.parametrize("base", [base_outcome(), None])
def test_a_study_survives_json(tmp_path: Path, base: Outcome | None):
    file = tmp_path / "family.json"
    runs = (run_of("uniform", "a", 0, 0.5),)
    study = FamilyStudy(runs, 9, {}, ("x",), (file,), base_network=base)
    file.write_text(json.dumps(study.to_mapping()))
    assert FamilyStudy.read(file) == study


def test_other_scores_than_accuracy_are_no_errors():
    runs = (run_of("copycat", "a", 0, 0.75), run_of("copycat", "a", 1, 0.25))
    study = FamilyStudy(runs, 10, {}, (), (), MEAN_IOU)
    assert study.measure == "test mean IoU"
    assert study.curves == {"copycat": [pytest.approx((100, 50, 50 * 0.5**0.5))]}
    study = FamilyStudy(runs, 10, {}, (), (), ABSOLUTE_ERROR)
    assert study.measure == "test mean absolute error"
    assert study.curves == {"copycat": [pytest.approx((100, 0.5, 0.5 * 0.5**0.5))]}
    console = Console(file=io.StringIO(), width=100)
    print_family(study, Path("family"), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.startswith("\nTest mean absolute error, mean ± deviation over runs")
    assert "0.5 ± 0.3536" in shown
    assert "%" not in shown


def test_curves_hold_every_point_and_their_deviation(tmp_path: Path):
    curves = {"copycat": [(1e3, 5.0, 1.0), (1e4, 3.0, 0.5)], "tempered:0.5": [(2e3, 4.0, 0.0)]}
    (axes,) = figures.family_figure(curves, axis="test error (%)").axes
    assert axes.get_ylabel() == "test error (%)"
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert [bar.get_label() for bar in bars] == list(curves)
    for bar, points in zip(bars, curves.values(), strict=True):
        line, _, (spread,) = bar.lines
        assert [*zip(*line.get_data(), strict=True)] == [point[:2] for point in points]
        for segment, (params, error, deviation) in zip(spread.get_segments(), points, strict=True):
            ends = [[params, error - deviation], [params, error + deviation]]
            assert segment.tolist() == ends
    files = figures.saved(figures.family_figure(curves, axis=""), tmp_path / "family")
    assert [file.name for file in files] == ["family.png", "family.svg"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_no_two_kinds_look_alike():
    """As Crowley et al. draw them, and kinds that have no look of their own."""
    kinds = ("fine-tuned", "wrn", "bottleneck", "copycat", "from-scratch", "a", "b", "uniform")
    curves = {kind: [(1e3, 50.0, 1.0), (1e4, 40.0, 1.0)] for kind in kinds}
    names = {"wrn": "of another width"}
    (axes,) = figures.family_figure(curves, axis="test error (%)", names=names).axes
    lines = [bar.lines[0] for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(kinds)
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["fine-tuned", "of another width", *kinds[2:]]
    assert axes.get_ylim()[0] > 30  # what they differ by is what there is to see


def test_a_foreign_builder_needs_trust(search_folder: Path, here: Path):
    """A folder may name any callable, wherever it lies: one in the runs folder may be copied in."""
    elsewhere = here / "elsewhere"
    shutil.copytree(search_folder / "architectures" / "fine-tuned-0", elsewhere)
    stored = copycat.read(elsewhere)
    builder = copycat.Builder("samples:small_network", {"num_classes": 10})
    example_input = torch.zeros(1, 1, 8, 8)
    model = builder()
    architecture = dataclasses.replace(
        stored,
        builder=builder,
        profile=WidthProfile({}),
        cost=measure_cost(model, example_input),
    )
    copycat.save(elsewhere, architecture, model)
    with pytest.raises(ArchitectureError, match="not trusted"):
        stored_subject(FamilyConfig(str(elsewhere)), elsewhere)
    trusting = FamilyConfig(str(elsewhere), trust=("samples",))
    assert stored_subject(trusting, elsewhere).base.builder == builder
    own = search_folder / "architectures" / "own"  # what lies in a search has not run for that
    shutil.copytree(elsewhere, own)
    with pytest.raises(ArchitectureError, match="--trust samples"):
        stored_subject(FamilyConfig("found/own"), own)
