"""Searches and studies that take whole heads of attention away."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from nets_of_users import Heads
from rich.console import Console
from samples import Workers, espalier, one_trial_config

import copycat
import search
from mlflow_server import MemoryRecorder
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.results.html_report import report_page
from search.studies.search_study import open_context
from search.trials.job_context import fresh_base
from search.trials.search_space import Proposal
from search.trials.sparse_training import SparseNetwork

MODEL, TRUST = "nets_of_users:Heads", ("nets_of_users",)
GROUP, HEAD = "qkv.heads", 6


def config_of(folder: Path, **changes: object) -> SearchConfig:
    settings: dict[str, object] = {
        "model": MODEL,
        "budget": ("flops=70%",),
        "min_channels": 1,
        "only": ("qkv",),
        "whole_heads": True,
    }
    return one_trial_config(folder, **(settings | changes))


def test_a_search_takes_heads_away(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, runs="espalier-runs")
    results = search.run(config).results
    assert results.front
    for outcome in results.everything:
        folder = config.directory / outcome.path
        stored = copycat.verify(folder, trust=TRUST)
        network = copycat.load(folder, trust=TRUST)
        assert isinstance(network, Heads)
        assert HEAD * network.heads == stored.profile.widths[GROUP] == network.qkv.out_features
        assert network.heads < 4
    assert " --whole-heads" in report_page(config.directory).split("To do it again")[1]
    key = f"{config.name}/{results.front[0].key}"

    # whoever derives a family of such a network need not ask once more
    flags = (f"--trust={TRUST[0]}", "--budgets=flops=60%", "--kinds=copycat,uniform", "--json")
    ladder = espalier("family", key, *flags)
    assert ladder.status == 0, ladder.err
    assert {row["widths"][GROUP] % HEAD for row in json.loads(ladder.out)} == {0}
    shown = json.loads(espalier("inspect", key, f"--trust={TRUST[0]}", "--json").out)
    assert shown["widths"][GROUP] < 4 * HEAD


def test_pruning_goes_on_where_a_single_head_is_left(tmp_path: Path, workers: Workers) -> None:
    """Which a trace no longer knows for a head."""
    study, targets = (
        StudyConfig(tempered_trials=0, descend=True),
        ("flops=60%", "flops=40%", "flops=36%"),
    )
    config = config_of(tmp_path, targets=targets, study=study, criterion=("taylor",), profiles=0)
    config = dataclasses.replace(config, ladder=SearchConfig.ladder)
    pruned = [o for o in search.run(config).results.everything if o.origin == "fine-tuned"]
    stored = [copycat.verify(config.directory / outcome.path, trust=TRUST) for outcome in pruned]
    assert [dict(each.profile.widths) for each in stored] == [
        {GROUP: 2 * HEAD},
        {GROUP: HEAD},
        {GROUP: HEAD},
    ]


@pytest.mark.parametrize("thresholds", [(), ("filter=1",)], ids=["to the budget", "all but one"])
def test_gates_of_heads(tmp_path: Path, thresholds: tuple[str, ...]) -> None:
    config = config_of(tmp_path, criterion=("scaling-factors",), budget=("flops=90%",))
    gates = dataclasses.replace(config.gates, gate_thresholds=thresholds)
    config = dataclasses.replace(config, gates=gates)
    preflight = open_context(config, Console(quiet=True))[0].preflight
    proposal = Proposal("scaling-factors", "filter", {"scaling-factors.strength": 1.0}, 1)
    base, _ = fresh_base(preflight, 0)
    sparse = SparseNetwork(base, proposal, config, preflight, seed=0, device=torch.device("cpu"))
    pruning = sparse.pruning([], preflight.limits)
    smaller = sparse.without(pruning)
    assert HEAD * smaller.heads == pruning.profile.widths[GROUP]
    assert (smaller.heads == 1) == bool(thresholds)


def test_it_is_said_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("inspect", MODEL, "--input=1x8x8", "--classes=10")
    assert GROUP not in espalier(*given).out
    assert GROUP in espalier(*given, "--whole-heads").out


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--model=digits-vgg", "--budget=flops=50%", "--device=cpu"),
        ("family", "p.json", "--model=resnet20", "--data=digits", "--budgets=flops=50%"),
        ("correlate", "--model=digits-vgg", "--device=cpu"),
        ("inspect", "vgg16", "--input=3x32x32"),
    ],
    ids=lambda command: command[0],
)
def test_where_there_are_no_heads_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text('{"widths": {}}')
    done = espalier(*command, "--whole-heads")
    assert done.status == 2
    assert "no attention whose code gets by with fewer heads" in done.err
    assert not (tmp_path / "espalier-runs").exists()
