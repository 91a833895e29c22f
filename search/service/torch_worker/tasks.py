"""Tasks that need torch: checking settings, listing the choices of clients, exporting.

They are called in a process that imports torch once and stays (`worker.py`); the service itself
never imports it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from rich.console import Console

from pruning import errors
from pruning.lazy_imports import lazy_modules
from search.config.methods import METHODS
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping, tables
from search.service.access.settings_policy import SERVER_SETTINGS
from search.service.torch_worker.worker import Refusal

if TYPE_CHECKING:
    import torch

    from copycat import architecture, export, python_source
    from search import models
    from search.data import named_datasets
    from search.data.data import Sample
    from search.scheduling import share
    from search.studies import search_study, setup
    from search.tasks import registry as learned_tasks
    from search.trials.preflight import Preflight
else:
    torch, architecture, export, python_source, models = lazy_modules(
        *("torch", "copycat.architecture", "copycat.export", "copycat.python_source"),
        "search.models",
    )
    named_datasets, share, search_study, setup, learned_tasks = lazy_modules(
        *("search.data.named_datasets", "search.scheduling.share"),
        *("search.studies.search_study", "search.studies.setup", "search.tasks.registry"),
    )


def check_settings(
    settings: Mapping[str, Any],
    device: str,
    most_params: int,
    on_cluster: bool = False,
    measures_weights: bool = False,
) -> dict[str, Any] | Refusal:
    """All settings, defaults among them, and what the preflight says: `settings` and `frame`.

    most_params: a network of more parameters is refused before it takes any memory.
    on_cluster: whether trials run on other machines, which need not have what this one has.
    measures_weights: whether trained weights are measured on validation data, as a search begins;
    otherwise they are only fitted.
    """
    fields = {
        errors.WeightsError: "weights",
        errors.ModelError: "model",
        errors.TraceError: "model",
        errors.BudgetError: "budget",
        errors.DataError: "data.source",
        errors.CriterionError: "criterion",
        errors.ArchitectureError: "training.distill_from",
    }
    try:
        config = from_mapping(SearchConfig, {**settings, "device": device}, "the request")
        if not on_cluster:
            chosen = setup.chosen_device(config.device, config.resources)
            share.check_resources(config, chosen)
        config, preflight = _preflight(config, most_params, measures_weights=measures_weights)
    except errors.EspalierError as error:
        field = getattr(error, "field", "") or next(
            (name for kind, name in fields.items() if isinstance(error, kind)), None
        )
        return Refusal(" ".join(str(error).split()), field)
    return {
        "settings": dataclasses.asdict(config.resolved()),
        "frame": {
            "base": _counts(preflight.base),
            "floor": _counts(preflight.floor),
            "limits": {bound.quantity: bound.value for bound in preflight.limits.bounds},
            "lines": preflight.describe(),
            "score": preflight.score.to_mapping(),
            "base_score": preflight.base_score,
        },
    }


def _counts(cost: Any) -> dict[str, int]:
    return {"flops": cost.flops, "params": cost.params}


def _preflight(
    config: SearchConfig, most_params: int, *, measures_weights: bool
) -> tuple[SearchConfig, Preflight]:
    """The settings, with the digest of the weights that they name, and what the preflight says."""
    sample = _sample(config.data, config.model, config.task, config.seed)
    _require_params(config, sample, most_params)
    if config.weights and measures_weights:
        # a process that ends with another may begin none to read ahead; it is no trial
        alone = dataclasses.replace(
            config, data=dataclasses.replace(config.data, workers=0), resources=ResourcesConfig()
        )
        context, _ = search_study.open_context(alone, Console(quiet=True))
        digest = context.config.weights_digest
        return dataclasses.replace(config, weights_digest=digest), context.preflight
    preflight = search_study.preflight_of(config, sample)
    return search_study.with_weights(config, preflight)[0], preflight


def _require_params(config: SearchConfig, sample: Sample, most: int) -> None:
    """ModelError for a network of more parameters, counted on tensors without memory."""
    model = config.model
    builder = models.builder_for(model, sample, config.model_arguments)
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in builder().parameters())
    except (errors.ModelError, ValueError):
        return  # it is built from values, which such tensors lack; memory is limited anyway
    if count > most:
        raise errors.ModelError(f"{model} has {count:,} parameters; this server allows {most:,}")


@functools.lru_cache(maxsize=8)
def _sample(data: Any, model: str, task: str, seed: int) -> Sample:
    """What a sample of the data is like."""
    channels = models.required_channels(model)
    console = Console(quiet=True)
    return setup.read_data(
        data, learned_tasks.resolve(task), seed, console, channels=channels
    ).sample


def catalogue() -> dict[str, Any]:
    """Networks, data sets and criteria by name, and the schema of the settings."""
    return {
        "models": list(models.names()),
        "datasets": list(named_datasets.names()),
        "criteria": [
            {
                "name": method.name,
                "needs_batchnorm": method.reads_batchnorm,
                "prunes_untrained": method.prunes_untrained,
                "settings": {
                    name: {"low": span.low, "high": span.high, "is_log": span.is_log}
                    for name, span in method.settings.items()
                },
            }
            for method in METHODS.values()
        ],
        "schema": _settings_schema(SearchConfig, TypeAdapter(SearchConfig).json_schema()),
    }


def _settings_schema(cls: type[Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the settings with their help, without those that the server decides."""
    table: dict[str, Any] = {"type": "object", "title": cls.__name__, "additionalProperties": False}
    definitions = schema.get("$defs", {})
    inner = tables(cls)
    properties = {}
    for name, part in schema["properties"].items():
        if name in inner:
            properties[name] = _table(definitions[inner[name].__name__], f"{name}.")
        elif name not in SERVER_SETTINGS:
            properties[name] = part
    return table | {"properties": properties}


def _table(schema: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: part
            for name, part in schema["properties"].items()
            if prefix + name not in SERVER_SETTINGS
        },
    }


def export_architecture(
    folder: Path, form: str, target: Path, trust: Sequence[str]
) -> Refusal | None:
    """Write an architecture as onnx or python.

    trust: builders that may run beside the zoo's and torchvision's: nothing in the folder of runs
    is trusted.
    """
    try:
        stored = architecture.read(folder)
        model = architecture.load(folder, trust=trust)
        if form == "onnx":
            export.to_onnx(model, stored.example_input, target)
        else:
            with export.written_whole(target) as temporary:
                temporary.write_text(python_source.to_python(stored, model), encoding="utf-8")
    except errors.EspalierError as error:
        return Refusal(" ".join(str(error).split()), None)
    return None
