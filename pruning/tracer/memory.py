"""When each activation of a run takes memory, and which tensors are of one value throughout."""

from __future__ import annotations

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import Call, aten_names
from pruning.networks.nested_tensors import tensors_in
from pruning.tracer.declarations import Declaration
from pruning.tracer.labelled_tensors import LabelledTensors
from pruning.tracer.tensor_dict import TensorDict
from pruning.tracer.trace_records import Storage

_FILLERS = frozenset(aten_names("zeros ones full empty new_zeros new_ones new_full new_empty"))
"""Operators that make all values alike. Whether the size fits shows where the tensor is used.

Unless it was taken from a tensor with channels: then what they make has those.
"""


class Memory:
    """The storages of activations, each from the step that makes it to the last that reads it."""

    def __init__(self, labelled: LabelledTensors) -> None:
        self.storages: list[Storage] = []
        self._labelled = labelled
        self._storage_of: TensorDict[Storage] = TensorDict()

    def axes(self, tensor: Tensor) -> AxisLabels:
        """Labels per axis of a tensor."""
        return self._labelled.axes(tensor)

    def begins(self, tensor: Tensor, step: int) -> None:
        """Note an activation that begins to take memory at this step."""
        axes = self._labelled.axes(tensor)
        sizes = [int(n) if a is None else a for n, a in zip(tensor.shape, axes, strict=True)]
        self._storage_of[tensor] = storage = Storage(tensor.element_size(), sizes, step, step)
        self.storages.append(storage)

    def is_read(self, tensor: Tensor, step: int) -> None:
        """Note that an activation is still needed at this step."""
        if (storage := self.storage(tensor)) is not None:
            storage.last, storage.is_read = step, True

    def storage(self, tensor: Tensor) -> Storage | None:
        """None for what is no activation."""
        return self._storage_of.get(tensor)

    def makes(self, call: Call, is_alias: list[bool], step: int) -> None:
        """Note what a call reads and makes; a view lives in the memory of what it is a view of."""
        for tensor in call.tensors:
            self.is_read(tensor, step)
        for output, shares in zip(call.outputs, is_alias, strict=True):
            if shares and call.tensors:
                source = self.storage(call.tensors[0])
                if source is not None:  # parameters take no memory of activations
                    self._storage_of[output] = source
            else:
                self.begins(output, step)


class FilledTensors:
    """Tensors of one value in all places, which fit however many channels there are.

    Each goes with the memory of all that it was made of, to be as long as what it is used with.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._storages: TensorDict[list[Storage]] = TensorDict()

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._storages

    def follows(self, tensor: Tensor, axis: int, labels: Labels) -> bool:
        """Whether a tensor is one; its axis is then noted to be as long as these labels."""
        for storage in self._storages.get(tensor, ()):
            storage.sizes[axis] = labels
        return tensor in self

    def are_made(self, declared: Declaration, call: Call) -> bool:
        """Whether an operator makes such tensors, or changes some in all places alike."""
        if call.name in _FILLERS:
            return not any(labels is not None for labels in self._memory.axes(call.output))
        is_alike = declared.is_pointwise or call.name == "aten::_to_copy"
        if not is_alike or declared.is_random:
            return False
        return bool(call.tensors) and all(tensor in self for tensor in call.tensors)

    def note(self, call: Call) -> None:
        """Note what a call of such an operator has made."""
        for output in call.outputs:
            alike = [t for t in (output, *call.tensors) if t.shape == output.shape]
            own = (self._memory.storage(tensor) for tensor in alike)
            self._storages[output] = [
                *(storage for storage in own if storage is not None),
                *(storage for tensor in alike for storage in self._storages.get(tensor, ())),
            ]

    def forget(self, declared: Declaration, call: Call) -> None:
        """Something may be written to what an operator changed or returned a view of."""
        for place, name in declared.shared_arguments:
            for tensor in tensors_in(call.arg(place, name)):
                self._storages.discard(tensor)
