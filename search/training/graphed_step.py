"""Training steps as CUDA graphs: all kernels of a step are started at once.

A step of a small network is hundreds of kernels of a few microseconds each, and starting them one
by one takes Python longer than running them takes the GPU. A graph is a step that was recorded
once, with the addresses of all tensors, and is run again on other minibatches.

What a graph cannot repeat is found out before one is used: a minibatch is learned from both ways,
from the same state, and if the two differ, or capturing fails, training goes on without graphs.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import first_line
from pruning.networks.torch_interior import tree_flatten, tree_unflatten
from search.data.data import Batch

Step = Callable[[Batch], Tensor]
"""Learns from a minibatch; returns a few numbers, such as its loss."""

_WARM_UP = 3
"""Minibatches of one shape in a row before it is captured. The short last one of an epoch is
always run as it is."""

_MOST_SHAPES = 4
"""Graphs at once; each keeps the memory of a step."""

_TOLERANCE = 0.02
"""How far, as a share of the largest number of a tensor, a replayed step may be from the same step
run as it is. Kernels may add in another order, and bfloat16 rounds at 0.004; what a graph leaves
out is off by far more."""


class Capture(ABC):
    """How a step is recorded, and what of random numbers its device has."""

    @abstractmethod
    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Run a step where it will be recorded, and return what it does."""

    @abstractmethod
    def record(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What runs the recorded step again, and the tensor that it leaves its result in.

        Recording runs nothing. Raises RuntimeError for what cannot be recorded.
        """

    @abstractmethod
    def random_state(self) -> Tensor:
        """Of the device's generator."""

    @abstractmethod
    def set_random_state(self, state: Tensor) -> None:
        """Go back to a `random_state`."""


@final
class GraphedStep:
    """Takes training steps, as graphs where these do the same.

    step: runs one as it is.
    state: all tensors that a step changes and the next one reads; the same ones as long as no
        step is run as it is for the first time.
    why_not: why no graph is tried, or why graphs were given up; empty otherwise.
    """

    def __init__(
        self,
        step: Step,
        *,
        state: Callable[[], Sequence[Tensor]],
        capture: Capture,
        why_not: str = "",
    ) -> None:
        self._step, self._state, self._capture = step, state, capture
        self.why_not = why_not
        self._graphs: dict[Hashable, _Graph] = {}
        self._last: Hashable = None
        self._in_a_row = 0

    def __call__(self, batch: Batch) -> Tensor:
        if self.why_not:
            return self._step(batch)
        leaves, structure = tree_flatten(batch)
        shape = _shape_of(leaves, structure)
        if shape is None:
            self.why_not = "minibatches hold more than tensors of the device"
            return self._step(batch)
        self._in_a_row = self._in_a_row + 1 if shape == self._last else 1
        self._last = shape
        if (graph := self._graphs.get(shape)) is not None:
            return graph.replay(leaves)
        if self._in_a_row <= _WARM_UP or len(self._graphs) >= _MOST_SHAPES:
            return self._warmed_up(batch)
        return self._first(shape, leaves, structure)

    def _warmed_up(self, batch: Batch) -> Tensor:
        """A step as it is; what draws random numbers of the host cannot be repeated."""
        before = _host_random_state()
        result = self._capture.warm_up(lambda: self._step(batch))
        if _host_random_state() != before:
            self._give_up("the step draws random numbers on the host")
        return result

    def _first(self, shape: Hashable, leaves: list[Any], structure: Any) -> Tensor:
        """Learn from a minibatch as it is and by a graph, and keep the graph if both do the same.

        What is left is what the step did as it is.
        """
        before = [tensor.clone() for tensor in self._state()]
        random_before = self._capture.random_state()
        try:
            graph = _Graph(self._step, self._capture, leaves, structure)
            replayed = graph.replay(leaves).clone()
        except Exception as error:  # one of the step itself comes again below
            self._give_up(f"it cannot be captured: {first_line(error)}")
            graph = None
        by_graph = [tensor.clone() for tensor in self._state()]
        for tensor, value in zip(self._state(), before, strict=True):
            tensor.copy_(value)
        self._capture.set_random_state(random_before)
        result = self._step(tree_unflatten(leaves, structure))
        if graph is not None:
            pairs = zip([*by_graph, replayed], [*self._state(), result], strict=True)
            if all(_are_close(one, two) for one, two in pairs):
                self._graphs[shape] = graph
            else:
                self._give_up("a captured step does not do what the step does")
        return result

    def _give_up(self, why: str) -> None:
        self.why_not = why
        self._graphs.clear()


@final
class _Graph:
    """One recorded step, and the tensors that it reads its minibatch from."""

    def __init__(self, step: Step, capture: Capture, leaves: list[Any], structure: Any) -> None:
        self._inputs = [leaf.clone() for leaf in leaves]
        batch = tree_unflatten(self._inputs, structure)
        self._run, self._result = capture.record(lambda: step(batch))

    def replay(self, leaves: list[Any]) -> Tensor:
        """Learn from this minibatch; the result holds until the next one."""
        for place, leaf in zip(self._inputs, leaves, strict=True):
            place.copy_(leaf, non_blocking=True)
        self._run()
        return self._result


@final
class CudaCapture(Capture):
    """Capture by torch.cuda.CUDAGraph, in memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """On a stream beside the usual one, as libraries set themselves up on each."""
        with torch.cuda.device(self._device):
            usual = torch.cuda.current_stream()
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(usual)
            with torch.cuda.stream(self._stream):
                result = step()
            usual.wait_stream(self._stream)
        return result

    def record(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            try:
                with torch.cuda.graph(graph):
                    result = step()
            except RuntimeError:
                self._leave_capture()
                raise
        return graph.replay, result

    def random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self._device)

    def set_random_state(self, state: Tensor) -> None:
        torch.cuda.set_rng_state(state, self._device)

    def _leave_capture(self) -> None:
        """Give the generator a state that does not count itself as captured any more."""
        torch.cuda.synchronize()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())


def tensors_of(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers, without their history."""
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _shape_of(leaves: list[Any], structure: Any) -> Hashable:
    """What two minibatches must share to be run by one graph; None for what none can run."""
    if not all(isinstance(leaf, Tensor) and not leaf.is_sparse for leaf in leaves):
        return None
    if len({leaf.device for leaf in leaves}) != 1:
        return None
    return str(structure), tuple((leaf.shape, leaf.dtype, leaf.stride()) for leaf in leaves)


def _host_random_state() -> Hashable:
    numbers = np.random.get_state(legacy=False)
    assert isinstance(numbers, dict)
    torchs = torch.default_generator.get_state().numpy().tobytes()
    return torchs, random.getstate(), numbers["state"]["key"].tobytes(), numbers["state"]["pos"]


def _are_close(one: Tensor, two: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, two)
    largest = max(float(two.abs().max()), 1e-6) if two.numel() else 1.0
    return torch.allclose(one, two, rtol=0, atol=_TOLERANCE * largest, equal_nan=True)
