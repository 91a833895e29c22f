"""Learnable gates on whole layers, residual branches and blocks of a network.

Layers and blocks are gated by forward hooks and branches by rewriting the code of their
block, so that modules keep their class, their attributes and the names of their parameters.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
eq. 4 (layers), 8 (branches) and 12 (blocks).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pruning.networks.copies import deep_copy
from pruning.networks.wrappers import unwrapped
from pruning.structure_removal.residual_blocks import branch_gate, gate_branch, ungate_branch
from pruning.structure_removal.structures import Structure


class Gate(nn.Module):
    """Multiplies what passes by φ = σ(logit), or by `setting` once that is a number."""

    def __init__(self, logit: Tensor) -> None:
        super().__init__()
        self.logit = nn.Parameter(logit)
        self.setting: float | None = None

    @property
    def value(self) -> Tensor:
        """φ in (0, 1), a scalar."""
        return self.logit.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.value if self.setting is None else self.setting)


class Bypass(nn.Module):
    """The forward hook of a layer or block f: makes of its output φ·f(x) + s(x).

    Once the gate is set to v, 0 or 1, it makes v·f(x) + (1 − v)·s(x): f or s alone.
    While it is listening, s runs but changes nothing.
    """

    def __init__(self, gate: Gate, shortcut: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.shortcut = shortcut
        self.is_listening = False

    def forward(self, _module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        passed: Tensor = self.shortcut(inputs[0])
        if self.is_listening:
            return output
        if self.gate.setting is not None:
            passed = passed * (1 - self.gate.setting)
        gated: Tensor = self.gate(output) + passed
        return gated


class GatedStructures(nn.Module):
    """A copy of a network with a gate on each of some structures; `model` is left untouched.

    shortcuts: per structure what is added to it (see structure_removal.structures); None for a
        branch.
    logits: of the gates, shape (structures,), in this order.

    The copy, `.model`, keeps the names of its parameters; deep copies of the whole work.
    """

    def __init__(
        self,
        model: nn.Module,
        shortcuts: Mapping[Structure, nn.Module | None],
        logits: Tensor,
    ) -> None:
        super().__init__()
        self.structures = tuple(shortcuts)
        self.model = deep_copy(unwrapped(model))
        self.bypasses = nn.ModuleDict()
        for (structure, shortcut), logit in zip(shortcuts.items(), logits, strict=True):
            module, gate = self.model.get_submodule(structure.name), Gate(logit.clone())
            if shortcut is None:
                gate_branch(module, gate)
            else:
                bypass = Bypass(gate, shortcut.train(module.training))
                module.register_forward_hook(bypass)
                self.bypasses[_key(structure)] = bypass

    def forward(self, *inputs: object, **named: object) -> object:
        return self.model(*inputs, **named)

    def gate(self, structure: Structure) -> Gate:
        """The gate of a structure."""
        if structure.kind == "branch":
            gate: object = branch_gate(self.model.get_submodule(structure.name))
        else:
            gate = self.bypasses[_key(structure)].gate
        assert isinstance(gate, Gate)
        return gate

    def shortcut(self, structure: Structure) -> nn.Module | None:
        """What is added to a layer or block, trained with the network; None for a branch."""
        if structure.kind == "branch":
            return None
        added = self.bypasses[_key(structure)].shortcut
        assert isinstance(added, nn.Module)
        return added

    def name_of_shortcut(self, structure: Structure) -> str | None:
        """The name that `shortcut` has as a part of this module."""
        return None if structure.kind == "branch" else f"bypasses.{_key(structure)}.shortcut"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this is open, outputs are those of the network without any gate or shortcut.

        Shortcuts run beside it, so that a trace sees which channels they read.
        """
        for structure in self.structures:
            self.gate(structure).setting = 1.0
        self._listen(is_listening=True)
        try:
            yield
        finally:
            self._listen(is_listening=False)
            for structure in self.structures:
                self.gate(structure).setting = None

    def _listen(self, *, is_listening: bool) -> None:
        for bypass in self.bypasses.values():
            assert isinstance(bypass, Bypass)
            bypass.is_listening = is_listening

    def ungated(self) -> nn.Module:
        """A copy of the network as it is trained so far, without gates and added shortcuts."""
        result = copy.deepcopy(self.model)
        for structure in self.structures:
            module = result.get_submodule(structure.name)
            if structure.kind == "branch":
                ungate_branch(module)
        for module in result.modules():
            # The handles that remove hooks are the original's; a copy has the hooks alone.
            ours = [n for n, hook in module._forward_hooks.items() if isinstance(hook, Bypass)]
            for number in ours:
                del module._forward_hooks[number]
        return result


def _key(structure: Structure) -> str:
    """Module names must not contain dots."""
    return f"{structure.kind}:{structure.name}".replace(".", "/")


def first_logits(
    number: int, like: Tensor, generator: torch.Generator, *, least: float = 0.05
) -> Tensor:
    """Logits of gates that are uniform in (0, 1) (§5.1), clipped to [least, 1 − least].

    Shape (number,); the device follows `like`, the dtype too but is at least float32.
    """
    values = torch.rand(number, generator=generator).clamp(least, 1 - least)
    return values.logit().to(like.device, torch.promote_types(like.dtype, torch.float32))
