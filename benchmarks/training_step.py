"""The training step of RNI against the authors' trainer: VGG-16 and ResNet-56, batch 64, 32×32.

    python benchmarks/training_step.py > benchmarks/results/training_step.md

Each side trains an epoch of a few steps, in alternating order, on the same images and equal
networks, in one thread (the authors' loader has a worker process beside it). Compared is processor
time of the process and its workers, which other work on the machine bends less than wall time.
oneDNN is held to what other processors have by ONEDNN_MAX_CPU_ISA, in processes of their own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from authors_trainer import SHIFT, STRENGTH, AuthorsTrainer
from torch import Tensor, nn

from pruning import to_sigmoid_batchnorm
from pruning.regularizers import RNI
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.data.image_sources import ImageSplit
from search.data.opened_dataset import Augmentation
from search.models import resnet56, vgg16
from search.tasks.classification import Classification
from search.training.precision import training_precision
from search.training.trainer import Trainer

NETWORKS: dict[str, Callable[[], nn.Module]] = {"VGG-16": vgg16, "ResNet-56": resnet56}
BATCH = 64
PROCESSORS = {
    "as it is": "",
    "without AMX": "AVX512_CORE_BF16",
    "without AMX and bfloat16": "AVX512_CORE",
    "AVX2 alone": "AVX2",
}
"""What oneDNN is held to."""
GOALS = {("VGG-16", True): 1.5, ("ResNet-56", True): 2.0}
GOAL_WITHOUT_AMX = 1.15
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each side")
    parser.add_argument("--steps", type=int, default=5, help="of an epoch")
    parser.add_argument("--only", nargs="*", default=list(PROCESSORS), choices=PROCESSORS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.measure, options.pairs, options.steps)))
        return
    print_heading()
    for processor in options.only:
        for name in NETWORKS:
            held = {"ONEDNN_MAX_CPU_ISA": PROCESSORS[processor]} if PROCESSORS[processor] else {}
            command = [sys.executable, __file__, "--measure", name]
            command += ["--pairs", str(options.pairs), "--steps", str(options.steps)]
            output = subprocess.run(
                command, env=os.environ | held, check=True, capture_output=True, text=True
            )
            print_row(name, processor, json.loads(output.stdout.splitlines()[-1]))


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """As many images of noise as CIFAR's are large, and labels."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=source, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=source)


def noise_data(images: Tensor, labels: Tensor) -> ImageData:
    """Images to train on; two of them are measured and tested on."""
    few = ImageSplit(images[:2], labels[:2])
    return ImageData(
        "noise",
        ImageSplit(images, labels),
        few,
        few,
        tuple(map(str, range(10))),
        (0.5,) * 3,
        (0.25,) * 3,
        Augmentation(4, flip=True),
    )


def our_trainer(
    model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, epochs: int
) -> Trainer:
    """The trainer of a search, with the penalty of RNI as a search has it."""
    data = noise_data(images, labels)
    model = model.to(device, memory_format=data.memory_format)
    penalty = RNI(STRENGTH, SHIFT).on(model)
    return Trainer(
        model,
        data,
        task=Classification(),
        epochs=epochs,
        config=TrainingConfig(batch_size=BATCH),
        seed=0,
        device=device,
        penalty=lambda _: penalty(),
    )


def measure(name: str, num_pairs: int, num_steps: int) -> dict[str, object]:
    """Processor seconds per image of both sides, and the ratios of pairs."""
    images, labels = random_images(num_steps * BATCH)
    torch.manual_seed(0)
    model = to_sigmoid_batchnorm(NETWORKS[name]())
    authors = AuthorsTrainer(to_sigmoid_batchnorm(model), images, labels, device=CPU)
    ours = our_trainer(to_sigmoid_batchnorm(model), images, labels, CPU, num_pairs + 1)
    sides: list[tuple[list[tuple[float, float]], Callable[[], object]]] = [
        ([], authors.run_epoch),
        ([], ours.run_epoch),
    ]
    for number in range(num_pairs + 1):
        for times, run in sides if number % 2 else reversed(sides):
            times.append(timed(run))
    theirs, own = (times[1:] for times, _ in sides)  # the first epochs warm up
    return {
        "precision": str(training_precision(CPU, torch.zeros(1, 3, 32, 32))).removeprefix("torch."),
        "theirs": [len(images) / t for t, _ in theirs],
        "own": [len(images) / t for t, _ in own],
        "ratios": [a / b for (a, _), (b, _) in zip(theirs, own, strict=True)],
        "wall": [a / b for (_, a), (_, b) in zip(theirs, own, strict=True)],
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of this process and of the workers that end meanwhile; wall seconds."""
    begun, before = time.perf_counter(), processor_seconds()
    run()
    return processor_seconds() - before, time.perf_counter() - begun


def processor_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def print_heading() -> None:
    has_amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    print(
        f"""# The training step: RNI against the authors' trainer

Measured on {datetime.date.today()} by `{shlex.join(["python", *sys.argv])}`:
one thread of {processor_name()} ({"with" if has_amx else "without"} AMX),
torch {torch.__version__}, torchvision {torchvision.__version__}. Batch {BATCH},
images 3×32×32, σBN, penalty of RNI on all of them, SGD with Nesterov momentum;
the authors' settings are those of `benchmarks/authors_trainer.py`
(float32, one loader worker, one PIL image at a time). Images/s are per second of processor time,
worker included, on a shared machine: compare within a row. The ratio is that of neighbouring
epochs, mean ± standard deviation over n; beside it that of wall time.

| network | processor | ours in | authors images/s | ours images/s | ratio | n | wall | goal |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
    )


def print_row(name: str, processor: str, measured: dict[str, list[float]]) -> None:
    ratios, wall = measured["ratios"], measured["wall"]
    is_bf16 = measured["precision"] == "bfloat16"
    goal = GOALS[name, True] if is_bf16 else GOAL_WITHOUT_AMX
    reached = "reached" if statistics.mean(ratios) >= goal else "missed"
    cells = [
        name,
        processor,
        str(measured["precision"]),
        f"{statistics.median(measured['theirs']):.0f}",
        f"{statistics.median(measured['own']):.0f}",
        spread(ratios),
        str(len(ratios)),
        spread(wall),
        f"{goal:g}×, {reached}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return "a CPU"


if __name__ == "__main__":
    main()
