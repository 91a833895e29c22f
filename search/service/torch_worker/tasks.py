"""Tasks that need torch: checking settings, listing the choices of clients, exporting.

They are called in a process that imports torch once and stays (`worker.py`); the service itself
never imports it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from rich.console import Console

from pruning import errors
from pruning.lazy_imports import lazy_modules
from search.config.correlation_config import CorrelationConfig
from search.config.family_config import FamilyConfig, over_recipe
from search.config.methods import METHODS
from search.config.model_arguments import model_arguments
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping, tables
from search.config.study_settings import SETTINGS_OF, UNUSED
from search.service.access.settings_policy import SERVER_SETTINGS
from search.service.torch_worker.worker import Refusal
from search.storage.layout import StudyKind

if TYPE_CHECKING:
    import torch

    from copycat import architecture, export, python_source
    from copycat.architecture import trust as architecture_trust
    from copycat.builder import Builder
    from search import models
    from search.data import named_datasets
    from search.data.data import Sample
    from search.scheduling import share
    from search.studies import correlation_study, family_ladder, family_study, search_study, setup
    from search.tasks import registry as learned_tasks
    from search.trials.preflight import Preflight
else:
    torch, architecture, architecture_trust, export, python_source, models = lazy_modules(
        *("torch", "copycat.architecture", "copycat.architecture.trust", "copycat.export"),
        *("copycat.python_source", "search.models"),
    )
    named_datasets, share, setup, learned_tasks = lazy_modules(
        *("search.data.named_datasets", "search.scheduling.share"),
        *("search.studies.setup", "search.tasks.registry"),
    )
    search_study, family_study, family_ladder, correlation_study = lazy_modules(
        *("search.studies.search_study", "search.studies.family_study"),
        *("search.studies.family_ladder", "search.studies.correlation_study"),
    )

_FIELDS: dict[type[errors.EspalierError], str] = {
    errors.WeightsError: "weights",
    errors.ModelError: "model",
    errors.TraceError: "model",
    errors.BudgetError: "budget",
    errors.DataError: "data.source",
    errors.CriterionError: "criterion",
    errors.ArchitectureError: "training.distill_from",
}
"""The setting at fault, by what is raised, where that does not say so itself."""

_FIELDS_OF_FAMILIES: dict[type[errors.EspalierError], str] = {
    errors.ModelError: "source",
    errors.BudgetError: "budgets",
    errors.ArchitectureError: "source",
}


@dataclass(frozen=True)
class Server:
    """What studies run on, and the most that they may ask for.

    most_params: a network of more parameters is refused before it takes any memory.
    most_networks: that a family may train.  on_cluster: whether jobs run on other machines, which
    need not have what this one has.  trust: builders that may run for a stored network.
    """

    device: str
    most_params: int
    most_networks: int
    on_cluster: bool = False
    trust: tuple[str, ...] = ()


def check_settings(
    kind: StudyKind, settings: Mapping[str, Any], server: Server, measures_weights: bool = False
) -> dict[str, Any] | Refusal:
    """All settings, defaults among them, and what the preflight says: `settings` and `frame`.

    settings: `runs` among them, which a family's source lies in.
    measures_weights: whether a search's trained weights are measured on validation data, as it
    begins; otherwise they are only fitted.
    """
    try:
        config, preflight, lines = _checked(kind, settings, server, measures_weights)
    except errors.EspalierError as error:
        fields = _FIELDS | _FIELDS_OF_FAMILIES if kind == "family" else _FIELDS
        field = getattr(error, "field", "") or next(
            (name for cls, name in fields.items() if isinstance(error, cls)), None
        )
        return Refusal(" ".join(str(error).split()), field)
    return {
        "settings": dataclasses.asdict(config.resolved()),
        "frame": {
            "base": _counts(preflight.base),
            "floor": _counts(preflight.floor),
            "limits": {bound.quantity: bound.value for bound in preflight.limits.bounds},
            "lines": [*preflight.describe(), *lines],
            "score": preflight.score.to_mapping(),
            "base_score": preflight.base_score,
        },
    }


def _counts(cost: Any) -> dict[str, int]:
    return {"flops": cost.flops, "params": cost.params}


def _checked(
    kind: StudyKind, settings: Mapping[str, Any], server: Server, measures_weights: bool
) -> tuple[Any, Preflight, list[str]]:
    """The settings, what the preflight says, and what there is to say beside it."""
    if kind == "family":
        settings = {**over_recipe(settings), "trust": list(server.trust)}
    config = from_mapping(SETTINGS_OF[kind], {**settings, "device": server.device}, "the request")
    search = config if kind == "search" else config.as_search()
    if not server.on_cluster:
        chosen = setup.chosen_device(search.device, search.resources)
        share.check_resources(search, chosen)
    if kind == "family":
        return dataclasses.replace(config, trust=()), *_family_preflight(config, server)
    if kind == "correlation":
        return config, *_correlation_preflight(config, server)
    return *_preflight(config, server.most_params, measures_weights=measures_weights), []


def _preflight(
    config: SearchConfig, most_params: int, *, measures_weights: bool
) -> tuple[SearchConfig, Preflight]:
    """The settings, with the digest of the weights that they name, and what the preflight says."""
    sample = _sample_of_model(config, most_params)
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


def _family_preflight(config: FamilyConfig, server: Server) -> tuple[Preflight, list[str]]:
    num_networks = len(config.ladder()) * len(config.kind_names) * config.seeds
    if num_networks > server.most_networks:
        raise errors.ConfigError(
            f"{num_networks:,} networks would be trained; this server allows "
            f"{server.most_networks:,}",
            field="budgets",
        )
    folder = family_ladder.architecture_folder(config.source, config.runs)
    if folder is None:
        raise errors.ConfigError(f"there is no architecture {config.source}", field="source")
    named = architecture.read(folder).builder
    builder = architecture_trust.check_trust(config.source, named, config.trust)
    _require_params(builder, config.source, server.most_params)
    subject = family_ladder.stored_subject(config, folder)
    sample = _sample(config.data, subject.channels, config.task, config.seed)
    return family_study.preflight_of(config, subject, sample)


def _correlation_preflight(
    config: CorrelationConfig, server: Server
) -> tuple[Preflight, list[str]]:
    sample = _sample_of_model(config, server.most_params)
    subject = correlation_study.subject_of(config, sample, torch.device("cpu"))
    return subject.preflight, [f"to compare    {subject.describe()}"]


def _sample_of_model(config: SearchConfig | CorrelationConfig, most_params: int) -> Sample:
    """What a sample of the data is like; ModelError for a network of more parameters."""
    model, channels = config.model, models.required_channels(config.model)
    sample = _sample(config.data, channels, config.task, config.seed)
    arguments = model_arguments(config.model_arg)
    _require_params(models.builder_for(model, sample, arguments), model, most_params)
    return sample


def _require_params(builder: Builder, name: str, most: int) -> None:
    """ModelError for a network of more parameters, counted on tensors without memory."""
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in builder().parameters())
    except (errors.ModelError, ValueError):
        return  # it is built from values, which such tensors lack; memory is limited anyway
    if count > most:
        raise errors.ModelError(f"{name} has {count:,} parameters; this server allows {most:,}")


@functools.lru_cache(maxsize=8)
def _sample(data: Any, channels: int | None, task: str, seed: int) -> Sample:
    """What a sample of the data is like."""
    console = Console(quiet=True)
    return setup.read_data(
        data, learned_tasks.resolve(task), seed, console, channels=channels
    ).sample


def catalogue() -> dict[str, Any]:
    """Networks, data sets and criteria by name, and the schema of each kind's settings."""
    schemas = {
        kind: _settings_schema(cls, SERVER_SETTINGS | UNUSED.get(kind, frozenset()))
        for kind, cls in SETTINGS_OF.items()
    }
    # where a family names no data, access/family_source.py takes those of its source
    data = schemas["family"]["properties"]["data"]["properties"]["source"]
    data["description"] += "; by default those that the source was trained on"
    del data["default"]
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
        "schemas": schemas,
    }


def _settings_schema(cls: type[Any], without: Collection[str]) -> dict[str, Any]:
    """The JSON schema of the settings with their help.

    without: names of those that clients do not decide, or that have no effect.
    """
    schema = TypeAdapter(cls).json_schema()
    definitions, inner = schema.get("$defs", {}), tables(cls)
    properties = {
        name: _table(definitions[inner[name].__name__], without, f"{name}.")
        if name in inner
        else part
        for name, part in schema["properties"].items()
        if name not in without
    }
    required = {"required": schema["required"]} if "required" in schema else {}
    whole = {"type": "object", "title": cls.__name__, "additionalProperties": False}
    return whole | required | {"properties": properties}


def _table(schema: Mapping[str, Any], without: Collection[str], prefix: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: part
            for name, part in schema["properties"].items()
            if prefix + name not in without
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
