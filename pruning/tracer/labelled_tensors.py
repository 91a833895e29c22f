"""The labels of every tensor that a run has seen, and the parameters and buffers they come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pruning.graph.channel_labels import AxisLabels, ChannelLabels, TensorLabels
from pruning.graph.operators.rule import unlabelled
from pruning.tracer.tensor_dict import TensorDict
from pruning.tracer.trace_records import Slot, StoredTensor


class LabelledTensors:
    """Labels by tensor; each axis of a parameter or buffer gets atoms of its own.

    tensors: parameters and buffers by name.
    stored, slots: these, in order, and each of their axes. used: names of those that were read.
    sizes: attributes of modules that hold a number of channels, each once.
    """

    def __init__(self, tensors: Mapping[str, Tensor], channels: ChannelLabels) -> None:
        self.channels = channels
        self.stored: list[StoredTensor] = []
        self.slots: list[Slot] = []
        self.sizes: list[Slot] = []
        self.used: set[str] = set()
        self._known: TensorDict[TensorLabels] = TensorDict()
        self._names: TensorDict[str] = TensorDict()
        for name, tensor in tensors.items():
            axes = tuple(channels.new(int(size)) for size in tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            self.stored.append(StoredTensor(name, axes, tensor.element_size(), is_parameter))
            self.slots += [Slot(name, axis, labels) for axis, labels in enumerate(axes)]
        self.label_again(tensors)

    def label_again(self, tensors: Mapping[str, Tensor]) -> None:
        """Label the tensors of a copy of the network like those of the same names."""
        for stored in self.stored:
            tensor = tensors[stored.name]
            self._known[tensor] = TensorLabels(stored.axes, from_parameters=True, is_stored=True)
            self._names[tensor] = stored.name

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._known

    def __getitem__(self, tensor: Tensor) -> TensorLabels:
        return self._known[tensor]

    def __setitem__(self, tensor: Tensor, labels: TensorLabels) -> None:
        self._known[tensor] = labels

    def axes(self, tensor: Tensor) -> AxisLabels:
        """Labels per axis; none for a tensor of unknown origin."""
        labels = self._known.get(tensor)
        return unlabelled(tensor) if labels is None else labels.axes

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether `tensor` was computed from parameters and buffers alone."""
        labels = self._known.get(tensor)
        return labels is not None and labels.from_parameters

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a parameter or buffer as it is, in whatever order of its axes."""
        labels = self._known.get(tensor)
        return labels is not None and labels.is_stored

    def name(self, tensor: Tensor) -> str | None:
        """Of a parameter or buffer."""
        return self._names.get(tensor)

    def notes_size(self, attribute: str, tensor: Tensor) -> None:
        """Label an attribute that holds a number of channels and has no tensor to follow."""
        labels = self.axes(tensor)[1]
        if labels is not None and all(slot.name != attribute for slot in self.sizes):
            self.sizes.append(Slot(attribute, 0, labels))
