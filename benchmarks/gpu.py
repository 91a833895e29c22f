"""Training on a GPU: the `gpu` tests, steps, sharing, and RNI's VGG-16 as far as it goes.

    python benchmarks/gpu.py --data .data/cifar10-jpeg > benchmarks/results/gpu.md
    python benchmarks/gpu.py --dry-run        # everything, tiny, on the CPU; claims nothing

Needs torch and torchvision alone: what else the modules import is stood in for where it is absent.
The tests need pytest and hypothesis; --packages names a folder that has them. Ends within
--minutes (8): what is left of them after the other parts trains VGG-16.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def _placeholder(name: str) -> type[Exception]:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})


def stand_in_for_absent_packages() -> None:
    """Let modules be imported that declare settings by pydantic or store by safetensors.

    Settings made here are not checked then, and nothing is stored.
    """
    if importlib.util.find_spec("pydantic") is None:
        pydantic: Any = types.ModuleType("pydantic")
        pydantic.ConfigDict, pydantic.ValidationError = dict, type("_Never", (Exception,), {})
        pydantic.dataclasses = types.ModuleType("pydantic.dataclasses")

        def dataclass(**settings: Any) -> Any:
            return dataclasses.dataclass(frozen=settings["frozen"])

        pydantic.dataclasses.dataclass = dataclass
        sys.modules |= {"pydantic": pydantic, "pydantic.dataclasses": pydantic.dataclasses}
    if importlib.util.find_spec("safetensors") is None:
        safetensors: Any = types.ModuleType("safetensors")
        safetensors.torch = types.ModuleType("safetensors.torch")
        for module in (safetensors, safetensors.torch):
            module.__getattr__ = _placeholder
        sys.modules |= {"safetensors": safetensors, "safetensors.torch": safetensors.torch}


stand_in_for_absent_packages()

import torch  # noqa: E402 - after what its users need
import torchvision  # noqa: E402
from authors_trainer import SHIFT, STRENGTH, AuthorsTrainer  # noqa: E402
from torch import nn  # noqa: E402
from training_step import BATCH, noise_data, our_trainer, random_images  # noqa: E402

import pruning  # noqa: E402
from pruning.criteria import BatchNormScale  # noqa: E402
from pruning.regularizers import RNI  # noqa: E402
from search.config.data_config import DataConfig  # noqa: E402
from search.config.training_config import TrainingConfig  # noqa: E402
from search.data.data import Data  # noqa: E402
from search.data.datasets import load  # noqa: E402
from search.models import resnet20, resnet56, vgg16  # noqa: E402
from search.tasks.classification import Classification  # noqa: E402
from search.training.trainer import Trainer  # noqa: E402

TESTS = (
    "tests/search/training",
    "tests/search/system/test_float32.py",
    "tests/pruning/regularizers",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is done: `steps` of an epoch, `pairs` of epochs, `sharing` trainings at once."""

    device: torch.device
    steps: int
    pairs: int
    sharing: int
    networks: dict[str, Callable[[], nn.Module]]
    deadline: float


def main() -> None:
    options = arguments()
    if options.share_of:
        train_a_share(options)
        return
    begun = time.monotonic()
    deadline = begun + 60 * options.minutes
    if options.dry_run:
        print("**A dry run on the CPU: it shows that the script runs, and claims nothing.**\n")
        plan = Plan(torch.device("cpu"), 2, 1, 2, {"ResNet-20": resnet20}, begun + 60)
    elif torch.cuda.is_available():
        networks = {"VGG-16": vgg16, "ResNet-56": resnet56}
        plan = Plan(torch.device("cuda"), 200, 3, 4, networks, deadline)
    else:
        sys.exit("torch finds no GPU here: --dry-run runs everything, tiny, on the CPU")
    heading(plan)
    run_tests(plan, options.packages)
    throughput(plan)
    sharing(plan)
    rni_row(plan, options.data)
    print(f"\nAll of it took {time.monotonic() - begun:.0f} s.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--data", help="folder with train/ and test/, a folder per class in each")
    parser.add_argument("--packages", default="", help="folder with pytest and hypothesis")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--share-of", choices=("cpu", "cuda"), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def heading(plan: Plan) -> None:
    on_gpu = plan.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "the CPU"
    print(f"# Training on {name}\n")
    print(
        f"Measured on {datetime.date.today()} by `python {' '.join(sys.argv)}`: torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, "
        f"{len(os.sched_getaffinity(0))} CPU cores. σBN, batch {BATCH}, images 3×32×32.\n",
        flush=True,
    )


def run_tests(plan: Plan, packages: str) -> None:
    """The tests marked gpu, in a process of their own."""
    print("## Tests marked `gpu`\n")
    search_path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-m", "gpu", *TESTS] + (["--collect-only"] if plan.device.type == "cpu" else [])
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": search_path},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print("Not finished within 180 s.\n", flush=True)
        return
    said = (done.stdout + done.stderr).strip().splitlines()
    print("\n".join(["```", *said[-12:], "```\n"]), flush=True)


def throughput(plan: Plan) -> None:
    """Images/s of the authors' trainer and of ours, epochs in alternating order."""
    print("## Steps\n\n| network | authors images/s | ours images/s | ratio | n | steps |")
    print("| --- | --- | --- | --- | --- | --- |")
    images, labels = random_images(plan.steps * BATCH)
    for name, make in plan.networks.items():
        model = pruning.to_sigmoid_batchnorm(make())
        authors = AuthorsTrainer(
            pruning.to_sigmoid_batchnorm(model), images, labels, device=plan.device
        )
        ours = our_trainer(model, images, labels, plan.device, plan.pairs + 1)
        seconds: list[list[float]] = [[], []]
        for number in range(plan.pairs + 1):
            own_epoch = functools.partial(timed, ours, plan.device)
            sides = [(0, authors.timed_epoch), (1, own_epoch)]
            for side, run in sides if number % 2 else reversed(sides):
                seconds[side].append(run())
        theirs, own = ([len(images) / s for s in times[1:]] for times in seconds)
        ratios = [b / a for a, b in zip(theirs, own, strict=True)]
        how = ours.step_note or ("graphs" if plan.device.type == "cuda" else "as they are")
        cells = [name, *(f"{statistics.median(side):.0f}" for side in (theirs, own))]
        print(f"| {' | '.join(cells)} | {spread(ratios)} | {len(ratios)} | {how} |", flush=True)


def timed(trainer: Trainer, device: torch.device) -> float:
    begun = time.perf_counter()
    trainer.run_epoch()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def sharing(plan: Plan) -> None:
    """Trainings of ResNet-20 in processes, one after the other and at once."""
    alone = sum(run_shares(plan, 1) for _ in range(plan.sharing))
    together = run_shares(plan, plan.sharing)
    print(
        f"\n## Sharing\n\n{plan.sharing} trainings of ResNet-20, {3 * plan.steps} steps each, "
        f"start of the processes not counted: one after the other {alone:.1f} s, at once "
        f"{together:.1f} s, {alone / together:.2f} times as fast (n = 1).\n",
        flush=True,
    )


def run_shares(plan: Plan, count: int) -> float:
    """Seconds from when all of so many processes are ready until all are done."""
    command = [sys.executable, __file__, "--share-of", plan.device.type]
    command += ["--steps", str(plan.steps)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # ready
    begun = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0, process.returncode
    return time.perf_counter() - begun


def train_a_share(options: argparse.Namespace) -> None:
    """In a process of `run_shares`: get ready, wait for the word, train."""
    device = torch.device(options.share_of)
    images, labels = random_images(options.steps * BATCH)
    trainer = our_trainer(pruning.to_sigmoid_batchnorm(resnet20()), images, labels, device, 4)
    trainer.run_epoch()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        trainer.run_epoch()
    if device.type == "cuda":
        torch.cuda.synchronize()


def rni_row(plan: Plan, folder: str | None) -> None:
    """VGG-16 by RNI (λ 1e-3, b 3), half of its filters pruned, fine-tuned; in the time left."""
    print("## RNI, VGG-16, half of the filters\n")
    if folder is None and plan.device.type == "cuda":
        print("Not run: --data names no folder.", flush=True)
        return
    data: Data
    if folder is None:
        data = noise_data(*random_images(2 * BATCH))
        make: Callable[[], nn.Module] = resnet20
    else:
        data, make = load(DataConfig(source=f"imagefolder:{folder}"), seed=0), vgg16
    device, inputs = plan.device, data.sample.inputs.to(plan.device)
    model = pruning.to_sigmoid_batchnorm(make()).to(device, memory_format=data.memory_format)
    penalty = RNI(STRENGTH, SHIFT).on(model)
    first, num_epochs, seconds = trained(plan, model, data, lambda _: penalty(), share=0.5)
    smaller = pruning.prune(pruning.fold(model), inputs, "channels=50%", criterion=BatchNormScale())
    tuned, num_tuned, more = trained(plan, smaller, data, None, share=1.0)
    score = Classification().measured(smaller, data.loader("test", device=device))
    where = "CIFAR-10 (JPEG)" if folder else "noise"
    print(
        f"On {where}, one seed: {num_epochs} epochs in {seconds:.0f} s, validation accuracy "
        f"{first:.4f}; half of the channels removed, {num_tuned} epochs of fine-tuning in "
        f"{more:.0f} s, validation {tuned:.4f}, test {score:.4f}. The paper trains and tunes 160 "
        "epochs each (VGG-16, CIFAR-10: 93.67 at 50 %).",
        flush=True,
    )


def trained(
    plan: Plan, model: nn.Module, data: Data, penalty: Any, *, share: float
) -> tuple[float, int, float]:
    """Train for this share of the time left; the epochs are chosen after a first one is timed.

    Returns validation accuracy, epochs and seconds.
    """
    left = (plan.deadline - time.monotonic() - 15) * share
    arguments: dict[str, Any] = {
        "task": Classification(),
        "config": TrainingConfig(batch_size=BATCH, learning_rate=0.1),
        "seed": 0,
        "device": plan.device,
        "penalty": penalty,
    }
    trial = Trainer(model, data, epochs=2, **arguments)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    timed(trial, plan.device)  # also warms up
    second = timed(trial, plan.device)
    model.load_state_dict(before)
    most = 1 if plan.device.type == "cpu" else 160
    epochs = max(1, min(most, math.floor((left - 3 * second) / second)))
    begun, trainer = time.monotonic(), Trainer(model, data, epochs=epochs, **arguments)
    while not trainer.is_finished:
        trainer.run_epoch()
    return trainer.reports[-1].validation_score, epochs, time.monotonic() - begun


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    main()
