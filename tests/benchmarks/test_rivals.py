"""The arithmetic of benchmarks/rivals.py: what is spent, what is chosen, what is told of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from search.config.data_config import DataConfig
from search.trials.jobs import Outcome

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks, which are scripts side by side."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported


@pytest.mark.parametrize("rival", ["uniform", "random_widths", "nsga2"])
def test_a_rival_spends_what_it_is_given_and_no_more(module: Any, rival: str) -> None:
    bench_of, shapes = module("rivals_bench"), module("rivals_shapes")
    setting = bench_of.Setting(
        "test", "digits-vgg", DataConfig(limit_train=60), (0.04, 0.01), 1, 1, 0.1, 1
    )
    bench = bench_of.Bench(setting, seed=3)
    getattr(shapes, rival)(bench)
    images = bench.images_per_epoch
    counted = sum(network.flops * images for network in bench.networks)
    assert bench.spent == counted <= bench.limit
    assert bench.limit == pytest.approx(0.1 * images * bench.preflight.base.flops)
    assert bench.limit - bench.spent < images * bench.budgets[0]
    assert all(network.flops <= bench.budgets[0] for network in bench.networks)
    assert [network.spent for network in bench.networks] == sorted(
        network.spent for network in bench.networks
    )


def test_gradients_that_cannot_be_paid_are_not_taken(module: Any) -> None:
    bench_of, packages = module("rivals_bench"), module("rivals_packages")
    setting = bench_of.Setting(
        "test", "digits-vgg", DataConfig(limit_train=60), (0.04, 0.01), 1, 1, 2, 1, batch_size=16
    )
    bench = bench_of.Bench(setting, seed=3)
    model = bench.fresh({}, 0)
    batch = next(packages._minibatches(bench, 0))
    bench.spent = bench.limit - 16 * bench.preflight.base.flops + 1
    before = bench.spent
    assert not packages._takes_gradients(bench, model, batch)
    assert all(weight.grad is None for weight in model.parameters())
    assert bench.spent == before
    bench.spent -= 1
    assert packages._takes_gradients(bench, model, batch)
    assert any(weight.grad is not None for weight in model.parameters())
    assert bench.spent == bench.limit


@pytest.mark.parametrize(
    ("descend", "parents"), [(True, (None, 90, 40, None, 80)), (False, (None,) * 5)]
)
def test_what_a_network_was_pruned_from_is_looked_at_at_its_price(
    module: Any, descend: bool, parents: tuple[int | None, ...]
) -> None:
    """Scores are of the network that channels go from; None: of the base network."""
    bench_of, search = module("rivals_bench"), module("rivals_search")
    setting = bench_of.Setting(
        "test", "digits-vgg", DataConfig(limit_train=60), (0.04, 0.01), 1, 1, 2, 1
    )
    bench = bench_of.Bench(setting, seed=3)
    config = search._config(bench, search.Looking(descend=descend), "builder", "runs")
    networks = [
        Outcome("", "fine-tuned", trial, None, 1.0, flops, 0, 0.5, 0.5, "", "", seed)
        for trial, seed, flops in ((0, 0, 90), (0, 0, 40), (0, 0, 20), (0, 2, 80), (0, 2, 30))
    ]
    base = bench.preflight.base.flops
    found = search._parents(bench, config, networks)
    assert found == [base if parent is None else parent for parent in parents]
    looked_at = search._looked_at(bench, config, networks[1], 90)
    assert (bench.data.count("train"), bench.data.count("validation")) == (48, 12)
    assert looked_at == pytest.approx(48 * 90 + 12 / 3 * (90 + 40))


def run_of(module: Any, networks: list[tuple[int, float, float]]) -> Any:
    page = module("rivals_page")
    content = {
        "base_flops": 1000,
        "setting": {"budgets": [1.0, 0.1]},
        "reference": {"score": 0.5, "flops": 1000, "least_flops": 10},
    }
    return page.Run("uniform", 0, tuple(page.Trained(*network) for network in networks), content)


def test_validation_chooses_and_the_test_split_is_told_of(module: Any) -> None:
    run = run_of(module, [(100, 0.8, 0.7), (100, 0.7, 0.9), (1000, 0.9, 1.0), (2000, 1.0, 1.0)])
    assert [network.flops for network in run.chosen] == [100, 1000]
    assert run.test_score(1000) == 1.0
    assert run.test_score(100) == 0.7
    # Half of the two decades is spared by the first; (0.8 - 0.5) / 0.5 and (0.7 - 0.5) / 0.5.
    assert run.hypervolume(in_test=False) == pytest.approx(0.5 * 0.6)
    assert run.hypervolume(in_test=True) == pytest.approx(0.5 * 0.4)


def test_differences_are_paired_by_the_seeds_that_both_have(module: Any) -> None:
    page = module("rivals_page")
    own = {
        "espalier": [page.Run("espalier", seed, (), {}) for seed in (0, 1, 2)],
        "uniform": [page.Run("uniform", seed, (), {}) for seed in (2, 1)],
    }
    worth = {("espalier", 1): 0.5, ("espalier", 2): 0.8, ("uniform", 1): 0.4, ("uniform", 2): 0.6}
    told = page._against(
        own, "espalier", "uniform", lambda run: worth.get((run.rival, run.seed), 0.0)
    )
    assert told.value == pytest.approx(0.15)
