"""The trained weights that a search starts from, and what they are worth: asked first of all."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from pruning.errors import ConfigError, WeightsError
from search.config.methods import method
from search.config.search_config import SearchConfig
from search.data.data import Data
from search.models.weights import TrainedWeights, read
from search.training.batchnorm_statistics import estimate_statistics
from search.trials.job_context import STATISTICS_BATCHES, JobContext
from search.trials.preflight import Preflight


def starting_weights(config: SearchConfig, preflight: Preflight) -> TrainedWeights | None:
    """What `config` names, fitted to the network; None where it names nothing.

    Raises WeightsError for weights that are not there or are another network's, ConfigError for
    others than those that the search began with, and for a new head that is not to be trained.
    """
    if not config.weights:
        return None
    num_classes, seed = len(preflight.classes), config.seed_of(0)
    download = config.data.download
    weights = read(config.weights, preflight.builder, num_classes, seed=seed, download=download)
    if config.weights_digest not in ("", weights.digest):
        raise ConfigError(
            f"the weights {config.weights} are no longer those that this search began with: their "
            f"digest is {weights.digest[:12]}…, was {config.weights_digest[:12]}…; restore them, "
            "or choose another --name",
            field="weights",
        )
    if weights.new_head and not config.training.epochs:
        raise ConfigError(
            f"epochs must be at least 1, got 0: the weights {config.weights} have another number "
            "of classes, so that the head has to be trained before anything is pruned",
            field="training.epochs",
        )
    return weights


def measured(context: JobContext, data: Data) -> JobContext:
    """The context whose preflight says what the weights are worth; as it is where it has none.

    Raises WeightsError for a network whose score is no number.
    """
    config, weights = context.config, context.weights
    if weights is None:
        return context
    # A cluster's GPU need not be here.
    here = replace(context, device=context.device if torch.cuda.is_available() else "cpu")
    network, score = here.first_network(config.seed_of(0)), here.task.score
    worth = here.score(network, "validation", data)
    if math.isnan(worth):
        raise WeightsError(
            f"the {score.name} of {config.model} with the weights {config.weights} is NaN on the "
            "validation data: its outputs are no numbers"
        )
    lines = [f"{config.weights}: {score.name} {score.text(worth)} on the validation data"]
    if weights.new_head:
        lines.append(
            f"a new head ({', '.join(weights.new_head)}) of {len(context.preflight.classes)} "
            "classes in the place of theirs; the base network is trained with it"
        )
    if any(method(name).uses_sigmoid for name in config.criteria):
        lines.append(_cost_of_conversion(here, data, worth))
    if not config.training.epochs:
        lines += _notes_on_penalties(config)
    return replace(
        context, preflight=replace(context.preflight, base_score=worth, weights=tuple(lines))
    )


def _cost_of_conversion(context: JobContext, data: Data, before: float) -> str:
    """What σBN, which adds nothing to channels, makes of the network before it is trained."""
    config, preflight, score = context.config, context.preflight, context.task.score
    names = [name for name in config.criteria if method(name).uses_sigmoid]
    seed = config.seed_of(0)
    converted = (
        method(names[0])
        .prepared(context.first_network(seed), seed, preflight.example_input)
        .to(context.torch_device)
    )
    batches = data.scoring_batches(
        STATISTICS_BATCHES,
        batch_size=config.training.batch_size,
        seed=seed,
        device=context.torch_device,
    )
    estimate_statistics(converted, batches, context.task, context.torch_device)
    after = context.score(converted, "validation", data)
    return (
        f"{', '.join(names)} begins with σBN in the place of batch normalisation, whose offsets it "
        f"lacks: {score.name} {score.text(before)} → {score.text(after)}"
    )


def _notes_on_penalties(config: SearchConfig) -> list[str]:
    """That methods with a penalty prune without it."""
    penalised = [name for name in config.criteria if method(name).regularizer is not None]
    if not penalised:
        return []
    return [
        f"without sparse training (epochs 0) {', '.join(penalised)} prunes straight away, by its "
        "criterion: its penalty has no effect"
    ]
