"""How long a network takes, measured here, and kept beside the architecture.

latency.json holds {"format_version": 1, "measurements": [...]}, one measurement, with the
fields of Latency, for each machine, processor, device, batch size and number of threads.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from pruning.cost import ExampleInput, call_arguments
from pruning.errors import ArchitectureError, ConfigError, first_line
from pruning.lazy_imports import lazy_modules
from pruning.networks.torch_interior import tree_map_only

(benchmark,) = lazy_modules("torch.utils.benchmark")

LATENCY_FILE = "latency.json"
_VERSION = 1
_WARM_UP_RUNS = 3
"""Before the Timer's own warm-up: memory is taken and algorithms are chosen in these."""


@dataclass(frozen=True)
class Latency:
    """Time of one run of a network, in eval mode and without gradients.

    median_ms, iqr_ms: median and interquartile range, over blocks of runs that are long enough
        for the clock; each block counts with its mean per run. On a GPU the runs of a block are
        queued one after the other.
    num_runs: in all blocks.
    device: "cpu" or "cuda".
    batch: images in one run.
    threads: of the CPU, inside operators.
    machine: its name in the network.
    processor: the name of the CPU or GPU.
    torch_version: with its build, such as "2.11.0+cu130".
    """

    median_ms: float
    iqr_ms: float
    num_runs: int
    device: str
    batch: int
    threads: int
    machine: str
    processor: str
    torch_version: str

    @property
    def circumstances(self) -> tuple[str, str, str, int, int]:
        """What two measurements must share for the later one to replace the earlier one."""
        return (self.machine, self.processor, self.device, self.batch, self.threads)


def measured_latency(
    model: nn.Module,
    example_input: ExampleInput,
    *,
    device: str = "cpu",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 2.0,
) -> Latency:
    """Runs a copy of `model` on the device for about so many seconds, after a warm-up.

    example_input: N×… tensors, of which the first example is repeated `batch` times.
    Raises ConfigError for a device that is not there, numbers out of range, and a network that
    cannot run so.
    """
    _check_settings(device, batch, threads, seconds)
    # On import it looks for compilers, and would warn of one without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

    def repeated(tensor: Tensor) -> Tensor:
        if tensor.dim() > 0:
            tensor = tensor[:1].expand(batch, *tensor.shape[1:])
        return tensor.to(device).contiguous()

    try:
        copied = copy.deepcopy(model).to(device).eval()
        args, kwargs = call_arguments(tree_map_only(Tensor, repeated, example_input))
        names = {"model": copied, "args": args, "kwargs": kwargs}
        timer = benchmark.Timer("model(*args, **kwargs)", globals=names, num_threads=threads)
        with torch.inference_mode():
            timer.timeit(_WARM_UP_RUNS)
            measurement = timer.blocked_autorange(min_run_time=seconds)
    except Exception as error:  # a user's network may raise anything
        raise ConfigError(
            f"the network cannot run on {device} at batch {batch}: {first_line(error)}"
        ) from error
    return Latency(
        median_ms=1e3 * measurement.median,
        iqr_ms=1e3 * measurement.iqr,
        num_runs=measurement.number_per_run * len(measurement.times),
        device=device,
        batch=batch,
        threads=threads,
        machine=platform.node() or "unnamed",
        processor=processor_name(device),
        torch_version=torch.__version__,
    )


def read_latencies(path: str | Path) -> tuple[Latency, ...]:
    """What was measured of the architecture at `path`, oldest first; empty if nothing was.

    Raises ArchitectureError for a damaged file.
    """
    file = Path(path) / LATENCY_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format_version"] != _VERSION:
            raise ValueError(f"format version {content['format_version']!r}, expected {_VERSION}")
        return tuple(_latency(entry) for entry in content["measurements"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchitectureError(
            f"{file} is damaged ({type(error).__name__}: {first_line(error)}): "
            f"delete it and measure again"
        ) from error


def record_latency(path: str | Path, latency: Latency) -> None:
    """Adds to latency.json in `path`, whole or not at all.

    A measurement under the same circumstances is replaced. Raises ArchitectureError for a
    damaged file and for a folder that cannot be written.
    """
    folder = Path(path)
    others = [
        known for known in read_latencies(folder) if known.circumstances != latency.circumstances
    ]
    entries = [dataclasses.asdict(known) for known in (*others, latency)]
    text = json.dumps({"format_version": _VERSION, "measurements": entries}, indent=2)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{LATENCY_FILE}-", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / LATENCY_FILE)
    except OSError as error:
        raise ArchitectureError(f"cannot write {folder / LATENCY_FILE}: {error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _check_settings(device: str, batch: int, threads: int, seconds: float) -> None:
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch finds no CUDA device here; use --device cpu")
    for name, number in (("batch", batch), ("threads", threads)):
        if number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds must be a finite number above 0, got {seconds}")


def _latency(entry: dict[str, Any]) -> Latency:
    latency = Latency(**entry)
    for name, expected in get_type_hints(Latency).items():
        value = getattr(latency, name)
        is_such = isinstance(value, int | float if expected is float else expected)
        if isinstance(value, bool) or not is_such:
            raise ValueError(f"{name} must be {expected.__name__}, got {value!r}")
    return latency


def processor_name(device: str) -> str:
    """The name of the CPU, or of the GPU where `device` is cuda."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
