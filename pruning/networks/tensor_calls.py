"""Networks that take nested arguments and return anything, called with tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pruning.networks.nested_tensors import returned_tensors
from pruning.networks.torch_interior import tree_flatten, tree_unflatten


class OfTensors(nn.Module):
    """A network of positional tensors, which returns a tensor, or several as a tuple.

    model: takes arguments like these and returns tensors, or tuples, mappings or objects of them.
    positional, keyword: its arguments; what is no tensor in them stays as it is.
    """

    def __init__(
        self, model: nn.Module, positional: tuple[Any, ...], keyword: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._leaves, self._structure = tree_flatten((positional, dict(keyword)))
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that it is called with."""
        return tuple(self._leaves[place] for place in self._places)

    def forward(self, *tensors: Tensor) -> Any:
        """Call the network with these in the place of `tensors`."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        positional, keyword = tree_unflatten(leaves, self._structure)
        outputs = tuple(returned_tensors(self.model(*positional, **keyword), set()))
        return outputs[0] if len(outputs) == 1 else outputs
