"""Rivals of other packages: Torch-Pruning 1.6.1 and ModelOpt 0.47, each followed by fine-tuning.

pip install --no-deps torch-pruning==1.6.1
pip install nvidia-modelopt==0.47 torchprofile
"""

from __future__ import annotations

import copy
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from rivals_bench import FORWARD_ALONE, MIN_CHANNELS, Bench
from torch import nn

REMOVALS, TRAINED_EVERY, KEPT_LAST = 120, 15, 0.03
"""Torch-Pruning's iterative steps, how many of them lie between two epochs of training at a tenth
of the learning rate, and the share of channels that the last one leaves."""


def torch_pruning_magnitude(bench: Bench) -> None:
    """DepGraph with group magnitude importance."""
    import torch_pruning  # noqa: PLC0415  an extra of this benchmark

    _torch_pruning(bench, torch_pruning.importance.GroupMagnitudeImportance())


def torch_pruning_taylor(bench: Bench) -> None:
    """DepGraph with group Taylor importance, of one minibatch before each removal."""
    import torch_pruning  # noqa: PLC0415  an extra of this benchmark

    _torch_pruning(bench, torch_pruning.importance.GroupTaylorImportance())


def _torch_pruning(bench: Bench, importance: Any) -> None:
    """From one trained network to every budget: isomorphic and global pruning in turn.

    First with a floor of channels in every layer, then without, as by default: global pruning is
    known to leave single channels. The network that first meets a budget is fine-tuned, beside the
    one that is pruned further.
    """
    base = bench.trained_base()
    for number in itertools.count():
        before = len(bench.networks)
        _pruned_once(bench, copy.deepcopy(base), importance, number)
        if len(bench.networks) == before:
            return


def _pruned_once(bench: Bench, model: nn.Module, importance: Any, number: int) -> None:
    import torch_pruning  # noqa: PLC0415  an extra of this benchmark

    is_taylor = isinstance(importance, torch_pruning.importance.GroupTaylorImportance)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        bench.data.sample.inputs,
        importance,
        global_pruning=True,
        isomorphic=number % 2 == 0,
        max_pruning_ratio=_most_pruned(bench) if number % 4 < 2 else 1.0,
        pruning_ratio=1 - KEPT_LAST,
        iterative_steps=REMOVALS,
        iterative_pruning_ratio_scheduler=_geometric,
        ignored_layers=_kept_layers(bench, model),
    )
    batches, waiting = _minibatches(bench, bench.seed_of(number)), bench.budgets
    between = bench.setting.training.for_iterative_pruning(1, None)
    for removal in range(1, REMOVALS + 1):
        if is_taylor and not _takes_gradients(bench, model, next(batches)):
            return
        pruner.step()
        model.zero_grad()
        while waiting and bench.flops(bench.widths_of(model)) <= waiting[0]:
            waiting = waiting[1:]
            _fine_tuned(bench, model, bench.seed_of(100 * number + len(waiting)))
        flops = bench.flops(bench.widths_of(model))
        if not waiting or not bench.affords(flops, 1):
            return
        if removal % TRAINED_EVERY == 0:
            bench.train(model, bench.seed_of(100 * number + 50 + removal), between)


def _most_pruned(bench: Bench) -> float:
    """Share of a layer's channels that leaves the narrowest so many as other rivals leave.

    It is held against what a layer has before one more channel goes.
    """
    narrowest = min(bench.graph.group(name).width for name in bench.groups)
    return 1 - (MIN_CHANNELS + 1) / narrowest


def _geometric(ratio: float, steps: int) -> list[float]:
    """Shares to be pruned after each step, from none on, what is left falling by one factor."""
    return [1 - (1 - ratio) ** (step / steps) for step in range(steps + 1)]


def _kept_layers(bench: Bench, model: nn.Module) -> list[nn.Module]:
    """Layers whose outputs no rival prunes: the classifier, and those in residual streams."""
    pruned = {name for group in bench.groups for name in bench.graph.group(group).producers}
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name not in pruned
    ]


def _fine_tuned(bench: Bench, model: nn.Module, seed: int) -> None:
    """A copy, by the recipe, if it can be paid."""
    if bench.affords(bench.flops(bench.widths_of(model))):
        tuned = copy.deepcopy(model)
        bench.train(tuned, seed)
        bench.judge(tuned)


def _minibatches(bench: Bench, seed: int) -> Iterator[Any]:
    loader = bench.data.loader("train", device=bench.device, batch_size=bench.setting.batch_size)
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from loader.shuffled(generator)


def _takes_gradients(bench: Bench, model: nn.Module, batch: Any) -> bool:
    """Whether those of a minibatch could be paid, and are there."""
    images, flops = bench.setting.batch_size, bench.flops(bench.widths_of(model))
    if bench.spent + images * flops > bench.limit:
        return False
    model.train()
    bench.task.training_step(model, batch).backward()
    bench.charge(images, flops)
    return True


SHARES = (0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Of a layer's channels, that FastNAS chooses among."""


def fastnas(bench: Bench) -> None:
    """One trained network, FastNAS's choice for every budget, fine-tuned again and again."""
    base = bench.trained_base()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [
            model
            for limit in bench.budgets
            if (model := _chosen(bench, base, limit, os.path.join(folder, "sensitivity.pth")))
        ]
    for number in itertools.count():
        before = len(bench.networks)
        for place, model in enumerate(chosen):
            _fine_tuned(bench, model, bench.seed_of(100 * number + place))
        if len(bench.networks) == before:
            return


def _chosen(bench: Bench, base: nn.Module, limit: int, checkpoint: str) -> nn.Module | None:
    """What FastNAS makes of a budget; None where it has nothing that cheap.

    It counts two FLOPs for a multiply-add and none for batch normalisation, so that its choice may
    cost more than was asked for; then less is.
    """
    for share in (1, 0.95, 0.9, 0.8, 0.7):
        try:
            model = _fastnas_choice(bench, base, 2 * share * limit, checkpoint)
        except ValueError as error:
            bench.details[f"nothing within {limit:,} FLOPs"] = str(error)
            return None
        if bench.flops(bench.widths_of(model)) <= limit:
            return model
    return None


def _fastnas_choice(bench: Bench, base: nn.Module, flops: float, checkpoint: str) -> nn.Module:
    """checkpoint: keeps how much each layer's width matters, which is measured once."""
    import modelopt.torch.prune as mtp  # noqa: PLC0415  an extra of this benchmark

    convolutions = {"channels_ratio": SHARES, "kernel_size": (), "channel_divisor": 1}
    features = {"features_ratio": SHARES, "feature_divisor": 1}
    rules = {
        "nn.Conv2d": {"*": convolutions},
        "nn.BatchNorm2d": {"*": features},
        "nn.Linear": {"*": features},
    }
    with _quiet():
        model, _ = mtp.prune(
            copy.deepcopy(base),
            mode=[("fastnas", rules)],
            constraints={"flops": flops},
            dummy_input=bench.data.sample.inputs,
            config={"score_func": _scored(bench), "checkpoint": checkpoint, "verbose": False},
        )
    return model


def _scored(bench: Bench) -> Callable[[nn.Module], float]:
    """Accuracy in validation, which is charged for; of the whole network at the most."""
    images = bench.data.count("validation")

    def score(model: nn.Module) -> float:
        bench.charge(images, FORWARD_ALONE * bench.preflight.base.flops)
        return bench.score(model)

    return score


@contextmanager
def _quiet() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
