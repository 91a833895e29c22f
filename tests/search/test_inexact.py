"""Searches and studies of what cannot be pruned exactly: it is asked for, narrowed and marked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nets_of_users import LayerNorms
from rich.console import Console
from samples import Completed, Workers, espalier, one_trial_config, run_in_process

import copycat
import search
from copycat.families import BaseNetwork
from mlflow_server import MemoryRecorder, schema
from pruning.errors import CriterionError
from pruning.structure_removal.structures import Structure
from search.config.search_config import SearchConfig
from search.results.html_report import report_page
from search.service.torch_worker.tasks import Server, catalogue, check_settings
from search.storage.layout import CONFIG_FILE
from search.studies import session
from search.studies.search_study import open_context
from search.trials.job_context import fresh_base
from search.trials.search_space import Proposal
from search.trials.sparse_training import SparseNetwork

MODEL, TRUST = "nets_of_users:LayerNorms", ("nets_of_users",)
SERVER = Server("cpu", most_params=10**6, most_networks=1000)
WHY = "a layer normalisation runs over these channels"


def config_of(folder: Path, **changes: object) -> SearchConfig:
    settings: dict[str, object] = {
        "model": MODEL,
        "budget": ("flops=40%",),
        "prune_residual": True,
        "exact": False,
    }
    return one_trial_config(folder, **(settings | changes))


def test_a_search_narrows_the_embedding_and_marks_it(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, runs="espalier-runs")
    results = search.run(config).results
    assert results.front
    for outcome in results.everything:
        folder = config.directory / outcome.path
        stored = copycat.verify(folder, trust=TRUST)
        network = copycat.load(folder, trust=TRUST)
        assert isinstance(network, LayerNorms)
        assert network.embed.out_channels == stored.profile.widths["embed"] < 8
        assert (outcome.inexact, stored.inexact) == (("embed",), {"embed": WHY})
        run = memory.read(f"architecture/{outcome.key}")
        assert run.tags[schema.TAG_INEXACT] == "embed"
    page = report_page(config.directory)
    assert page.count(", narrowed inexactly") == len(results.front) + len(results.everything)
    assert f"embed ({WHY})" in page
    best = f"{config.name}/{results.front[0].key}"
    given = ("inspect", best, f"--trust={TRUST[0]}")
    assert f"narrowed inexactly: embed ({WHY})" in espalier(*given).out
    assert json.loads(espalier(*given, "--json").out)["inexact"] == {"embed": WHY}
    shown = " ".join(espalier("pareto", config.name).out.split())
    assert shown.count("narrowed inexactly") == len(results.front)
    assert " --no-exact" in page.split("To do it again")[1]


def test_exactly_only_the_rest_is_pruned_and_nothing_is_marked(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder
):
    config = config_of(tmp_path, exact=True, budget=("flops=80%",))
    for outcome in search.run(config).results.everything:
        stored = copycat.verify(config.directory / outcome.path, trust=TRUST)
        assert {*stored.profile.widths} == {"block.expand"}
        assert (outcome.inexact, stored.inexact) == ((), {})
        assert schema.TAG_INEXACT not in memory.read(f"architecture/{outcome.key}").tags
    assert "narrowed inexactly" not in report_page(config.directory)


def test_gates_reach_it_too(tmp_path: Path):
    config = config_of(tmp_path, criterion=("scaling-factors",))
    context, _ = open_context(config, Console(quiet=True))
    preflight = context.preflight
    proposal = Proposal("scaling-factors", "filter", {"scaling-factors.strength": 1.0}, 1)
    base, _ = fresh_base(preflight, 0)
    sparse = SparseNetwork(base, proposal, config, preflight, seed=0, device=torch.device("cpu"))
    pruning = sparse.pruning([], preflight.limits)
    assert sparse.without(pruning).embed.out_channels == pruning.profile.widths["embed"] < 8


def test_shapes_that_lack_a_structure_are_priced_alike(tmp_path: Path):
    context, _ = open_context(config_of(tmp_path), Console(quiet=True))
    profile = copycat.WidthProfile({"embed": 4}, (Structure("branch", "block"),))
    preflight = context.preflight
    base = BaseNetwork.of(preflight.builder, preflight.example_input, exact=False)
    for graph in (preflight.graph_of(profile), base.graph_of(profile)):
        assert graph.narrowed_inexactly(profile.widths) == {"embed": WHY}
        assert graph.cost(profile.widths).params == 4 * 5 + 2 * 4 + 10 * 5


def test_the_preflight_says_so(tmp_path: Path):
    context, _ = open_context(config_of(tmp_path), Console(quiet=True))
    assert (
        "inexact       1 of the 2 groups only inexactly: the smaller networks are trained anyway"
    ) in context.preflight.describe()
    exact, _ = open_context(
        config_of(tmp_path, exact=True, budget=("flops=80%",)), Console(quiet=True)
    )
    assert not any("inexact" in line for line in exact.preflight.describe())


@pytest.mark.parametrize("residual", [True, False])
def test_a_network_without_anything_exact_is_told_what_it_takes(tmp_path: Path, residual: bool):
    config = config_of(tmp_path, model=f"{MODEL}Alone", exact=True, prune_residual=residual)
    flags = "--no-exact prunes" if residual else "--no-exact --prune-residual prunes"
    with pytest.raises(CriterionError, match=f"no channels that could go without .*: {flags}"):
        open_context(config, Console(quiet=True))


def test_a_search_cannot_be_continued_otherwise(tmp_path: Path):
    config = config_of(tmp_path)
    config.directory.mkdir(parents=True)
    (config.directory / CONFIG_FILE).write_text(json.dumps(dataclasses.asdict(config)))
    flags = ("--exact", f"--runs={config.runs}", f"--name={config.name}", f"--model={MODEL}")
    done = espalier("search", *flags)
    assert done.status == 2
    assert "exact (it has False, now True)" in done.err


def test_the_service_offers_it_and_answers_alike():
    """The form of its page is made from the schema."""
    option = catalogue()["schemas"]["search"]["properties"]["exact"]
    assert (option["type"], option["default"]) == ("boolean", True)
    assert (
        option["description"] == SearchConfig.__dataclass_fields__["exact"].metadata["description"]
    )
    asked = {"model": MODEL, "criterion": ["taylor"], "budget": ["flops=40%"], "exact": False}
    answer = check_settings("search", {**asked, "prune_residual": True}, SERVER)
    assert isinstance(answer, dict), answer
    assert answer["settings"]["exact"] is False
    assert any(line.startswith("inexact       1 of the 2") for line in answer["frame"]["lines"])
    refused = check_settings("search", {**asked, "exact": "no"}, SERVER)
    assert (refused.field, "true or false" in refused.detail) == ("exact", True)


def test_inspect_shows_what_is_asked_for():
    given = ("inspect", MODEL, "--input=1x8x8")
    assert f"no: {WHY}" in espalier(*given).out
    assert f"residual stream, inexactly: {WHY}" in espalier(*given, "--no-exact").out


# ---- families and correlations


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a profile that narrows the embedding; studies run in this process."""
    monkeypatch.chdir(tmp_path)
    Path("p.json").write_text(copycat.WidthProfile({"embed": 4, "block.expand": 8}).to_json())

    class InProcess:
        def __init__(self, *given: object) -> None:
            self._given = given[:2]

        def __enter__(self):
            return lambda source, observer: run_in_process(source, *self._given, observer)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(session, "ray_executor", SimpleNamespace(cluster=InProcess))
    monkeypatch.setattr(session, "run_recorder", lambda *_: MemoryRecorder("family"))
    monkeypatch.setattr(
        "search.studies.session.run_recorder", lambda *_: MemoryRecorder("correlation")
    )
    return tmp_path


def family(source: str, *flags: str) -> Completed:
    return espalier(
        *("family", source, "--train", "--budgets=flops=40%", "--kinds=copycat", "--seeds=1"),
        *("--limit-train=60", "--scratch-epochs=1", "--device=cpu", *flags),
    )


def test_a_family_of_an_inexact_profile(here: Path):
    refused = family("p.json", f"--model={MODEL}")
    assert refused.status == 2
    assert f"group 'embed' is pinned at 8 channels, got 4: {WHY}" in refused.err
    done = family("p.json", f"--model={MODEL}", "--no-exact", "--name=study")
    assert done.status == 0, done.err
    folders = (here / "espalier-runs" / "study" / "architectures").iterdir()
    (member,) = (folder for folder in folders if folder.name != "base")
    stored = copycat.verify(member, trust=TRUST)
    assert stored.inexact == {"embed": WHY}

    # whoever derives a family of what is marked need not ask once more
    flags = (f"--trust={TRUST[0]}", "--budgets=flops=30%", "--json")
    ladder = espalier("family", f"study/{member.name}", *flags)
    assert ladder.status == 0, ladder.err
    assert [row["widths"]["embed"] < 8 for row in json.loads(ladder.out)] == [True, True]


def test_criteria_are_held_against_the_oracle_there_too(here: Path):
    flags = ("--criterion=taylor", "--limit-train=60", "--epochs=1", "--scoring-batches=1")
    flags += ("--prune-residual", "--device=cpu", f"--model={MODEL}")
    for more, layers in (("--name=a", {"block.expand"}), ("--no-exact", {"embed", "block.expand"})):
        done = espalier("correlate", *flags, more)
        assert done.status == 0, done.err
        (file,) = (f for f in here.glob("espalier-runs/*/correlation.json"))
        assert {*json.loads(file.read_text())["oracle"]} == layers
        file.unlink()
