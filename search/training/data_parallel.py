"""One training by several processes, each with a device of its own, step by step as by one.

All of them go through the same minibatches, in the same order and with the same random numbers,
and each computes the gradients of its slice. Gradients of the loss are added up before the step, so
that every process takes the same one: penalty, bound of the norm, running average and what a
method does after a step come once, from whole gradients, as on one device. Batch normalisation
takes the statistics of the whole minibatch. Numbers differ from those of one process by the order
in which float32 is summed.

The loss of a slice counts by its share of the samples: for a loss that is a mean over samples that
is the mean over the minibatch. Networks with random numbers of their own (dropout) draw others than
one process would, each process its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pruning.errors import ConfigError, DataError
from pruning.networks.nested_tensors import num_samples
from search.config.search_config import SearchConfig
from search.data.data import Batch, Data
from search.tasks.task import Task, has_own
from search.training.synchronized_batchnorm import synchronized_batchnorm


@dataclass(frozen=True)
class Part:
    """What one process computes of a minibatch.

    samples: a minibatch.  weight: what its mean loss counts.
    is_whole: whether it is all of the minibatch, as where there are fewer samples than processes.
    """

    samples: Batch
    weight: float = 1.0
    is_whole: bool = True

    def weighted(self, loss: Tensor) -> Tensor:
        """What it adds to the loss of the minibatch."""
        return loss if self.weight == 1 else loss * self.weight


class Others(Protocol):
    """The other processes, as the first of a training has them work."""

    def begin(self, training: Mapping[str, Any]) -> None:
        """Have them make the same trainer; see `Follower.begin`."""

    def epoch(self, number: int) -> AbstractContextManager[None]:
        """Inside the block they take the steps of this epoch, counted from 0, too."""


class Ranks:
    """The processes of a training, of which this is number `rank`; the default is one alone.

    They are the default group of torch.distributed, see `joined`.
    others: what leads them, in the first process. Only that one stores, reports, measures and
    prunes; the others take steps.
    """

    def __init__(self, rank: int = 0, size: int = 1, others: Others | None = None) -> None:
        self.rank, self.size, self._others = rank, size, others
        self._learning: list[bool] | None = None
        self._own_numbers: list[Tensor] = []

    def begin(self, training: Mapping[str, Any]) -> None:
        """Tell the others of a training that begins here."""
        if self._others is not None:
            self._others.begin(training)

    def epoch(self, number: int) -> AbstractContextManager[None]:
        """A block in which all processes take the steps of an epoch."""
        return nullcontext() if self._others is None else self._others.epoch(number)

    def agree(self, model: nn.Module, seed: int) -> None:
        """Give every process the weights and buffers of the first; the seed is of this epoch."""
        if self.size == 1:
            return
        self._learning = None
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((seed + 1) * self.size + self.rank)
            self._own_numbers = _states(device)
        for tensor in (*model.parameters(), *model.buffers()):
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)

    def part_of(self, batch: Batch) -> Part:
        """The slice of a minibatch that this process computes.

        A minibatch of fewer samples than processes is computed by each of them: batch
        normalisation could do nothing without any.
        """
        if self.size == 1:
            return Part(batch)
        count = num_samples(batch)
        if count < self.size:
            return Part(batch, 1 / self.size)
        begin, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return Part(sliced(batch, begin, end), (end - begin) / count, is_whole=False)

    @contextmanager
    def computing(self, part: Part, device: torch.device) -> Iterator[None]:
        """A block for forward and backward runs: statistics of all, random numbers of one's own.

        Random numbers that the processes share, of mixup, are left as they were.
        """
        if self.size == 1:
            yield
            return
        shared = _states(device)
        _set_states(device, self._own_numbers)
        try:
            with nullcontext() if part.is_whole else synchronized_batchnorm():
                yield
        finally:
            self._own_numbers = _states(device)
            _set_states(device, shared)

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients the sums over the processes; one that no process has stays none."""
        if self.size == 1:
            return
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        if self._learning is None:
            flags = torch.tensor([int(p.grad is not None) for p in learned])
            dist.all_reduce(flags, dist.ReduceOp.MAX)  # by gloo, which is there on any device
            self._learning = flags.bool().tolist()
        for dtype in {parameter.dtype for parameter in learned}:
            self._add_up([p for p, has in zip(learned, self._learning, strict=True) if has], dtype)

    def _add_up(self, learned: list[nn.Parameter], dtype: torch.dtype) -> None:
        alike = [parameter for parameter in learned if parameter.dtype == dtype]
        for parameter in alike:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in alike if p.grad is not None]
        if not gradients:
            return
        total = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(total)
        pieces = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


ALONE = Ranks()


def check_several_gpus(config: SearchConfig, data: Data, task: Task) -> None:
    """ConfigError or DataError for what several GPUs cannot train together, if a trial has them."""
    wanted = config.resources.gpus_per_trial or 0
    if wanted <= 1:
        return
    why = ""
    if has_own(task, "train"):
        why = f"{type(task).__name__} trains in a loop of its own, on one GPU"
    elif "iterative" in config.schedules:
        why = "the schedule iterative takes channels while a network trains, on one GPU"
    elif config.training.batch_size < wanted:
        why = f"minibatches of {config.training.batch_size} leave some of them without samples"
    if why:
        raise ConfigError(
            f"gpus_per_trial must be at most 1, got {wanted:g}: {why}",
            field="resources.gpus_per_trial",
        )
    few = data.few(2).loader("train", batch_size=2, device=torch.device("cpu"))
    sliced(next(few.in_order()), 0, 1)


@contextmanager
def joined(rank: int, size: int, meeting: Path, device: torch.device) -> Iterator[None]:
    """Processes of one machine are torch.distributed's default group inside the block.

    meeting: a file that is not there yet, at which they meet.
    """
    for library in ("GLOO", "NCCL"):  # they listen on this machine alone
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    address = f"file://{meeting}"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sliced(batch: Batch, begin: int, end: int) -> Batch:
    """Samples `begin` to `end` of a minibatch: of tensors and lists in tuples and mappings.

    DataError for parts of other lengths, of which it is not known whose they are.
    """
    return _sliced(batch, begin, end, num_samples(batch))


def _sliced(value: Any, begin: int, end: int, count: int) -> Any:
    if isinstance(value, Tensor | list) and not (isinstance(value, Tensor) and value.dim() == 0):
        if len(value) == count:
            return value[begin:end]
        raise DataError(
            f"a minibatch of {count} samples has a part of length {len(value)}, which cannot be "
            "split among several GPUs: use --gpus-per-trial 1"
        )
    if isinstance(value, Mapping):
        return {name: _sliced(part, begin, end, count) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_sliced(part, begin, end, count) for part in value)
    return value


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
