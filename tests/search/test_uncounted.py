"""What fvcore leaves out is told wherever FLOPs are, and can be bounded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from nets_of_users import Attending
from rich.console import Console
from samples import Workers, espalier, one_trial_config

import copycat
import search
from copycat import Architecture, Builder, WidthProfile, save, verify
from copycat.architecture.document import to_json
from mlflow_server import MemoryRecorder, schema
from pruning import Budget, trace
from pruning.cost import format_count
from pruning.errors import ArchitectureError
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig
from search.results.html_report import report_page
from search.studies.search_study import open_context

PRODUCTS = 2 * 64 * 64 * 8
LAYERS = 64 * 9 * 8 + 3 * 64 * 8 * 8 + 8 * 10
TOLD = "fvcore does not count scaled_dot_product_attention: 65.5k more multiply-adds"


def config_of(folder: Path, **changes: object) -> SearchConfig:
    settings: dict[str, object] = {
        "model": "nets_of_users:Attending",
        "budget": ("flops=60%",),
    }
    return one_trial_config(folder, **(settings | changes))


def products_of(network: Attending) -> int:
    """Multiply-adds of the attention, by hand."""
    return 64 * 64 * (network.query.out_features + network.value.out_features)


@pytest.mark.parametrize("counts", [False, True])
def test_a_search_tells_and_can_bound_what_fvcore_leaves_out(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, counts: bool
):
    config = config_of(tmp_path, count_attention=counts)
    results = search.run(config).results
    assert (results.base.flops, results.base.uncounted) == (LAYERS, PRODUCTS)
    assert results.base.notes == (TOLD,)
    whole = LAYERS + PRODUCTS if counts else LAYERS
    quantity = "multiply_adds" if counts else "flops"
    assert results.bounds == Budget.parse(f"{quantity}={int(0.6 * whole)}")
    assert len(results.everything) >= 3
    for outcome in results.everything:
        folder = config.directory / outcome.path
        network = copycat.load(folder, trust=["nets_of_users"])
        assert outcome.uncounted == copycat.read(folder).cost.uncounted == products_of(network)
        run = memory.read(f"architecture/{outcome.key}")
        assert run.metrics[schema.METRIC_UNCOUNTED] == ((0, outcome.uncounted),)
        if counts:
            assert outcome.flops + outcome.uncounted <= 0.6 * whole
    base = memory.read("search").metrics[schema.METRIC_BASE_UNCOUNTED]
    assert base == ((0, PRODUCTS),)
    assert f"Note: {TOLD}." in (memory.read("search").description or "")
    assert TOLD in report_page(config.directory)
    shown = espalier("pareto", config.directory).out
    assert TOLD in " ".join(shown.split())
    assert "not counted" in shown
    rows = json.loads(espalier("pareto", config.directory, "--json").out)
    assert [row["uncounted"] for row in rows] == [o.uncounted for o in results.front]


def test_what_a_file_says_of_it_is_verified(tmp_path: Path):
    builder, network = Builder("nets_of_users:Attending", {"num_classes": 3}), Attending(3)
    cost = trace(network, torch.zeros(1, 1, 8, 8)).cost()
    architecture = Architecture(builder, WidthProfile({}), (1, 8, 8), tuple("abc"), cost)
    wrong = dataclasses.replace(architecture, cost=dataclasses.replace(cost, uncounted=1))
    stored = save(tmp_path / "net", wrong, network)
    assert stored.cost.uncounted == PRODUCTS  # counted, not believed
    damaged = dataclasses.replace(stored, cost=dataclasses.replace(cost, uncounted=1))
    (tmp_path / "net" / "architecture.json").write_text(to_json(damaged))
    with pytest.raises(ArchitectureError, match=f"says uncounted = 1, it is {PRODUCTS:,}"):
        verify(tmp_path / "net", trust=["nets_of_users"])


def test_the_preflight_and_inspect_say_so(tmp_path: Path):
    context, _ = open_context(config_of(tmp_path), Console(quiet=True))
    assert f"note          {TOLD}" in context.preflight.describe()
    done = espalier("inspect", "nets_of_users:Attending", "--input=1x8x8")
    assert f"note: {TOLD}" in done.out


def test_inspect_counts_it_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = ("inspect", "nets_of_users:Attending", "--input=1x8x8", "--count-attention")
    whole = LAYERS + PRODUCTS
    shown = espalier(*given).out.splitlines()
    assert shown[0].startswith(f"base network  {format_count(whole)} multiply-adds, ")
    assert "mul-adds" in shown[4]
    content = json.loads(espalier(*given, "--json").out)
    assert content["base"]["multiply_adds"] == whole
    (value,) = (group for group in content["groups"] if group["name"] == "value")
    lost = 64 * 8 * 8 + 64 * 64 * 8 + 8 * 10
    assert value["multiply_adds_share"] == pytest.approx(lost / whole)
    Path("p.json").write_text(WidthProfile({"value": 4}).to_json())
    kept = f"{format_count(whole - lost // 2)} multiply_adds, {1 - lost / 2 / whole:.1%} of the"
    assert kept in espalier(*given, "--profile=p.json").out


def test_a_family_counts_alike():
    ladder = FamilyConfig("p.json", budgets=("flops=50%",), count_attention=True).ladder()
    assert ladder == (Budget.parse("multiply_adds=50%"),)
