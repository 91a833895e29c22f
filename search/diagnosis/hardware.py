"""Processors, memory and devices, as far as this process may use them."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pruning.errors import first_line
from pruning.lazy_imports import lazy_modules
from search.diagnosis.finding import Finding, size_text
from search.system.machine import usable_cores, usable_memory

if TYPE_CHECKING:
    import torch
else:
    (torch,) = lazy_modules("torch")

_RAY_BYTES, _PROCESS_BYTES = 525e6, 375e6
"""Of Ray's own services, and of a process with torch; measured with ray 2.60, torch 2.13."""

_SHARED_BYTES = 256e6
"""Ray's object store of a search without large data is half of it."""

_OPEN_FILES = 1024
_FREE_ON_DEVICE = 1e9

_DRIVER = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")


def check_processors() -> Finding:
    """Cores within affinity and control groups."""
    cores, present = usable_cores(), os.cpu_count() or 1
    of = f" of {present}, within affinity and control groups" if cores != present else ""
    return Finding("processors", f"{cores}{of}; load {os.getloadavg()[0]:.1f}")


def check_memory() -> Finding:
    """Whether a search has room, with a trial per GPU, or per core, as by default."""
    usable, num_gpus = usable_memory(), torch.cuda.device_count()
    wanted, each = (num_gpus, "GPU") if num_gpus else (usable_cores(), "core")
    free = min(usable, psutil.virtual_memory().available)
    found = f"{size_text(free)} free of {size_text(usable)} within control groups and limits"
    trials = int((free - _RAY_BYTES - _PROCESS_BYTES) // _PROCESS_BYTES)
    if trials >= wanted:
        return Finding("memory", found)
    least = size_text(_RAY_BYTES + 2 * _PROCESS_BYTES)
    if trials < 1:
        wrong = f"the smallest search takes {least}"
        return Finding("memory", found, "problem", wrong, "end other programs, or raise the limit")
    wrong = f"a trial per {each} ({wanted} at once) does not fit"
    return Finding("memory", found, "warning", wrong, f"search with --concurrency {trials}")


def check_shared_memory() -> Finding:
    """Room for what Ray's workers share."""
    if not _SHARED_MEMORY.is_dir():
        return Finding("shared memory", f"no {_SHARED_MEMORY}: Ray keeps it in files")
    free = shutil.disk_usage(_SHARED_MEMORY).free
    found = f"{size_text(free)} free in {_SHARED_MEMORY}"
    if free >= _SHARED_BYTES:
        return Finding("shared memory", found)
    return Finding(
        "shared memory",
        found,
        "warning",
        f"below {size_text(_SHARED_BYTES)} Ray keeps what workers share on disk, which is slow",
        "of a container: docker run --shm-size=2g, in Compose shm_size: 2gb",
    )


def check_open_files() -> Finding:
    """How many files a process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= _OPEN_FILES:
        shown = "any number" if limit == resource.RLIM_INFINITY else str(limit)
        return Finding("open files", shown)
    wrong = f"Ray and readers of data need about {_OPEN_FILES}"
    return Finding("open files", str(limit), "warning", wrong, "ulimit -n 4096")


def check_devices() -> Iterator[Finding]:
    """The GPUs that torch finds, and why it finds none where there is a driver."""
    if torch.cuda.is_available():
        yield from map(_device, range(torch.cuda.device_count()))
    elif _DRIVER.exists():
        yield _unused_driver()
    else:
        yield Finding("devices", "no NVIDIA GPU: networks are trained on the CPU")


def _device(index: int) -> Finding:
    subject, name = f"device {index}", torch.cuda.get_device_name(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        wrong, mend = f"it fails: {first_line(error)}", "see nvidia-smi; until then --device cpu"
        return Finding(subject, name, "problem", wrong, mend)
    found = f"{name}, {size_text(free)} free of {size_text(total)}"
    if free >= _FREE_ON_DEVICE:
        return Finding(subject, found)
    wrong = "other programs have taken its memory"
    mend = "end them (nvidia-smi names them), or choose another by CUDA_VISIBLE_DEVICES"
    return Finding(subject, found, "warning", wrong, mend)


def _unused_driver() -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        wrong, mend = "torch is built for the CPU", "install a build of torch for CUDA"
    elif hidden is not None:
        wrong = f"CUDA_VISIBLE_DEVICES is {hidden!r}"
        mend = "unset CUDA_VISIBLE_DEVICES, or name a GPU that is there"
    else:
        wrong = f"torch, built for CUDA {torch.version.cuda}, cannot use the driver"
        mend = "update the driver, or install a build of torch for what nvidia-smi shows"
    return Finding("devices", "an NVIDIA driver, but no GPU for torch", "warning", wrong, mend)
