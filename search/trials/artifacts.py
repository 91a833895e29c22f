"""A trained network becomes an architecture: measured, certified, written, told of."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from copycat.architecture import Architecture, read, save
from copycat.latency import processor_name
from copycat.width_profile import WidthProfile
from pruning.errors import ArchitectureError
from search.data.data import Data
from search.storage.atomic_files import disk_full_as_error, write_durably
from search.storage.layout import ARCHITECTURES_FOLDER, CURVE_FILE, TEST_SAMPLES_FILE
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Origin, Outcome

_SHARING_SECONDS = 10.0


@dataclass(frozen=True)
class Finished:
    """A trained network's place in the search; `record` goes into its provenance alone.

    curve: its epochs.  files: further JSON to be stored beside it, by name.
    """

    key: str
    origin: Origin
    trial: int | None
    rung: float | None
    alpha: float
    profile: WidthProfile
    seed: int
    images: int
    compute: float
    equal_compute: bool = False
    details: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, object] = field(default_factory=dict)
    curve: Sequence[EpochRecord] = ()
    files: Mapping[str, Any] = field(default_factory=dict)


def store(result: Finished, model: nn.Module, context: JobContext, data: Data) -> Outcome:
    """Measure, certify and write the architecture; the test split is used here, once.

    Raises DiskFullError where there is no room for it.
    """
    preflight, config = context.preflight, context.config
    graph, widths = preflight.graph_of(result.profile), result.profile.widths
    test_score, test_samples = context.test_score(model, data)
    cost = graph.cost(widths)
    provenance = {
        "search": config.study_name,
        "data": config.data.source,
        "task": config.task,
        "budget": str(preflight.budget),
        "origin": result.origin,
        "trial": result.trial,
        "rung": result.rung,
        "alpha": result.alpha,
        "seed": config.seed,
        "seed_of_weights": result.seed,
        "equal_compute": result.equal_compute,
        "images": result.images,
        "compute": result.compute,
        **({} if cost.channels is None else {"channels": cost.channels}),
        "score": preflight.score.to_mapping(),
        "validation_score": context.score(model, "validation", data),
        "test_score": test_score,
        "details": dict(result.details),
        **result.record,
        **data.record,
        **surroundings(context.device),
    }
    architecture = Architecture(
        preflight.builder,
        result.profile,
        preflight.input_shape,
        preflight.classes,
        cost,
        provenance,
        inexact=graph.narrowed_inexactly(widths),
    )
    path = f"{ARCHITECTURES_FOLDER}/{result.key}"
    folder = context.directory / path
    with disk_full_as_error(context.directory):
        save(folder, architecture, model.cpu())
        curve = [dataclasses.asdict(record) for record in result.curve]
        for name, content in {**result.files, CURVE_FILE: curve}.items():
            write_durably(folder / name, json.dumps(content).encode())
        if test_samples is not None:
            write_durably(folder / TEST_SAMPLES_FILE, as_npy(test_samples))
    return stored_outcome(context, path)


def as_npy(tensor: Tensor) -> bytes:
    """A tensor on the CPU as NumPy's file format has it."""
    stream = io.BytesIO()
    np.save(stream, tensor.numpy(), allow_pickle=False)
    return stream.getvalue()


def surroundings(device: str) -> dict[str, Any]:
    """What the last digits of a result depend on beside its settings: where it was computed."""
    return {
        "device": device,
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "espalier": _version(),
    }


@functools.cache
def _version() -> str:
    """Of this project; looking for it goes through all that is installed."""
    return importlib.metadata.version("espalier")


def stored_outcome(context: JobContext, path: str) -> Outcome:
    """What an architecture folder of the search records; ArchitectureError if none is there."""
    architecture = read(context.directory / path)
    record = architecture.provenance
    cost = architecture.cost
    return Outcome(
        key=path.rpartition("/")[2],
        origin=record["origin"],
        trial=record["trial"],
        rung=record["rung"],
        alpha=record["alpha"],
        flops=cost.flops,
        params=cost.params,
        validation_score=record["validation_score"],
        test_score=record["test_score"],
        profile=architecture.profile.digest,
        path=path,
        seed=record.get("seed_of_weights", 0),
        equal_compute=record.get("equal_compute", False),
        images=record.get("images", 0),
        compute=record.get("compute", 0.0),
        weight_bytes=cost.weight_bytes,
        peak_activation_bytes=cost.peak_activation_bytes,
        latency_ms=cost.latency_ms,
        uncounted=cost.uncounted,
        channels=record.get("channels"),
        details=record.get("details", {}),
        inexact=tuple(architecture.inexact),
        target=record.get("target", ""),
        tried=record.get("tried", ""),
    )


def not_stored(context: JobContext, outcomes: Sequence[Outcome]) -> str:
    """Why what was stored elsewhere is not to be found here; empty if all of it is.

    A shared file system may take some seconds to show what another machine has written.
    """
    deadline = time.monotonic() + _SHARING_SECONDS
    while (missing := [o.path for o in outcomes if not _is_stored(context, o)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    if not missing:
        return ""
    return (
        f"its worker says that it stored {', '.join(missing)}, but there is none in "
        f"{context.directory}: workers need that folder under the same path"
    )


def _is_stored(context: JobContext, outcome: Outcome) -> bool:
    try:
        return stored_outcome(context, outcome.path).profile == outcome.profile
    except ArchitectureError:
        return False


def stored_curve(folder: Path) -> list[EpochRecord]:
    """The epochs behind a stored architecture, in order; none where they cannot be read."""
    try:
        content = json.loads((folder / CURVE_FILE).read_text(encoding="utf-8"))
        return [EpochRecord(**record) for record in content]
    except (OSError, ValueError, TypeError):
        return []
