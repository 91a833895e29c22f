"""Learnable gates on whole layers, residual branches and blocks of a network.

Layers and blocks are gated by forward hooks and branches by rewriting the code of their
block, so that modules keep their class, their attributes and the names of their parameters.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
eq. 4 (layers), 8 (branches) and 12 (blocks).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from pruning.networks.copies import deep_copy
from pruning.networks.wrappers import unwrapped
from pruning.scaling_factors.gating import Gating
from pruning.structure_removal.residual_blocks import branch_gate, gate_branch, ungate_branch
from pruning.structure_removal.structures import Structure


class Gate(nn.Module):
    """Multiplies what passes by φ, a scalar, or by `setting` once that is a number."""

    def __init__(self, learned: Tensor, gating: Gating) -> None:
        super().__init__()
        self.learned = nn.Parameter(learned)
        self.gating = gating
        self.setting: float | None = None

    @property
    def value(self) -> Tensor:
        """φ, see Gating."""
        return self.gating.factor(self.learned)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.value if self.setting is None else self.setting)


class Bypass(nn.Module):
    """The forward hook of a layer or block f: makes of its output φ·f(x) + s(x).

    Once the gate is set to v, 0 or 1, it makes v·f(x) + (1 − v)·s(x): f or s alone; or
    v·f(x) + s(x) where the shortcut `stands`.
    While it is listening, s runs but changes nothing.
    """

    def __init__(self, gate: Gate, shortcut: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.shortcut = shortcut
        self.stands = False
        self.is_listening = False
        self._entered: Tensor | None = None

    def enter(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        """The forward pre-hook of the first module of f, where that has several: keeps x."""
        self._entered = inputs[0]

    def forward(self, _module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        entered, self._entered = self._entered, None
        passed: Tensor = self.shortcut(inputs[0] if entered is None else entered)
        if self.is_listening:
            return output
        if self.gate.setting is not None and not self.stands:
            passed = passed * (1 - self.gate.setting)
        gated: Tensor = self.gate(output) + passed
        return gated


class GatedStructures(nn.Module):
    """A copy of a network with a gate on each of some structures; `model` is left untouched.

    shortcuts: per structure what is added to it (see structure_removal.structures); None for a
        branch.
    learned: of the gates, shape (structures,), in this order; gating says what they make of it.
    ends: per convolution that is gated with what is behind it, the last module of that.

    The copy, `.model`, keeps the names of its parameters; deep copies of the whole work.
    """

    def __init__(
        self,
        model: nn.Module,
        shortcuts: Mapping[Structure, nn.Module | None],
        learned: Tensor,
        gating: Gating,
        ends: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.structures = tuple(shortcuts)
        self.model = deep_copy(unwrapped(model))
        self.bypasses = nn.ModuleDict()
        for (structure, shortcut), first in zip(shortcuts.items(), learned, strict=True):
            module, gate = self.model.get_submodule(structure.name), Gate(first.clone(), gating)
            if shortcut is None:
                gate_branch(module, gate)
                continue
            bypass = Bypass(gate, shortcut.train(module.training))
            last = module
            if structure.kind == "full-layer":
                module.register_forward_pre_hook(bypass.enter)
                last = self.model.get_submodule(ends[structure.name])
            last.register_forward_hook(bypass)
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

    def set(self, gone: Collection[Structure], *, stands: bool) -> None:
        """Set the gates: 0 for what is gone, 1 for what stays, whose shortcut stands or goes."""
        for structure in self.structures:
            self.gate(structure).setting = float(structure not in gone)
        for bypass in self.bypasses.values():
            assert isinstance(bypass, Bypass)
            bypass.stands = stands

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
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                ours = [n for n, hook in hooks.items() if isinstance(_owner(hook), Bypass)]
                for number in ours:
                    del hooks[number]
        return result


def _key(structure: Structure) -> str:
    """Module names must not contain dots."""
    return f"{structure.kind}:{structure.name}".replace(".", "/")


def _owner(hook: object) -> object:
    """The object whose method a hook is, or the hook itself."""
    return getattr(hook, "__self__", hook)
